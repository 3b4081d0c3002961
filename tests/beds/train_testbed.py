"""Small training runs: their settings, what they wrote, and weights that a test gives."""

import torch

from curate.recipe.parsing import validate
from curate.tables.schema import UPDATES, VALIDATIONS
from prm.bilevel.instances import RolloutWeights
from prm.config import LEARNED, AnyTrainConfig, TrainConfig


def train_config(**given) -> TrainConfig:
    """The section `train` of a recipe."""
    return validate(AnyTrainConfig, given, "train")


def settings(folder: str, **changes) -> TrainConfig:
    basic = {
        "model": folder,
        "seeds": 1,
        "steps": 6,
        "rows_per_domain": 2,
        "lr": 1e-3,
        "max_length": 600,
    }
    if changes.get("mode", "domain") in LEARNED:
        basic |= {"null_runs": 1, "upper": {"unroll": 2, "warmup": 1, "lr": 0.1, "meta_rows": 4}}
    return train_config(**(basic | {"checkpoint_every": 2} | changes))


def updates(workspace) -> list[dict]:
    rows = workspace.read(UPDATES).to_pylist()
    return sorted(rows, key=lambda row: (row["run"], row["update"], row["domain"]))


def evaluations(workspace) -> list[dict]:
    return sorted(workspace.read(VALIDATIONS).to_pylist(), key=lambda row: (row["run"], row["step"]))


class Fixed(RolloutWeights):
    """Weights that a test gives, for the rows in the order of `names`."""

    def __init__(self, names: list[str], weights: torch.Tensor) -> None:
        self.given = dict(zip(names, weights.tolist(), strict=True))

    def factors(self, names, features):
        return torch.tensor([self.given[name] for name in names], dtype=torch.float64)

    def all_weights(self):
        return torch.tensor(list(self.given.values()), dtype=torch.float64)

    def _learn(self, names, gradient):
        raise AssertionError("weights that a test gives do not learn")
