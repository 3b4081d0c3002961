"""A warm run of a tiny PRM, in float64, whose next lower step can be taken again and again from the same state."""

from __future__ import annotations

import types

import torch
from oracle import AdamStep
from prm_testbed import example_rows, to_examples
from train_testbed import train_config

from prm.bilevel.hypergradient import RunningDots, direction, gradients
from prm.bilevel.loop import Bilevel
from prm.bilevel.objective import PrmObjective
from prm.config import AdamUpper, LoraConfig
from prm.data.batches import Stream
from prm.data.encode import Encoder, load_processor
from prm.data.examples import Example
from prm.data.meta import OUTCOME, PAIRS, Pairs, Singles
from prm.model.aggregate import aggregation
from prm.model.lora import adapt
from prm.model.reward_model import Prm

WEIGHTS = {"a": 1.3, "b": 0.9, "c": 0.8}


class Weighted(Bilevel):
    """Weights as the test sets them, mean 1 or not."""

    given = WEIGHTS

    def weights(self) -> dict[str, float]:
        return dict(self.given)


def exact_norm(module, hidden):
    """RMSNorm without the cast to float32."""
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return module.weight * hidden * torch.rsqrt(variance + module.variance_epsilon)


class Bench:
    """A warm run whose next lower step can be taken again and again from the same state."""

    def __init__(
        self,
        model: str,
        with_image: bool,
        clip: float | None,
        pairs: bool = False,
        vision: bool = False,
        double: bool = True,
        warm: int = 20,
        lora: LoraConfig | None = None,
        checkpointing: bool = False,
        floor: float = 0,
        direction: str = "lagged",
        lr: float = 1e-3,
    ) -> None:
        train, images = example_rows(9, "train", tuple(WEIGHTS))
        meta, more = example_rows(8, "meta", ("m",))
        rows = to_examples(train + meta)
        if not with_image:
            rows = [Example(**{**vars(row), "image_hashes": ()}) for row in rows]
        store = {row["image_hash"]: row["bytes"] for row in images + more}
        encoder = Encoder(load_processor(model, None), store, "Check each step.", 600)
        encoded = {row.rollout_id: encoder.encode(row) for row in rows}
        prm = Prm.load(model, freeze_vision=not vision)
        prm.start_head("scalar", 0, 0, 2)
        if lora is not None:
            adapt(prm.base, prm.layers(), lora, 4)
        if double:
            prm.double()
        for module in prm.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = types.MethodType(exact_norm, module)
        if checkpointing:
            prm.use_checkpointing()
        outcomes = {row.rollout_id: bool(row.outcome) for row in rows if row.role == "meta"}
        groups = {d: [r["rollout_id"] for r in train if r["domain"] == d] for d in WEIGHTS}
        config = train_config(
            model=model, lr=lr, lr_schedule="constant", lr_warmup=1, clip=clip,
            upper=AdamUpper(floor=floor, direction=direction, warmup=warm, unroll=1),
        )  # fmt: skip
        upper, aggregate = PAIRS if pairs else OUTCOME, aggregation("mean-log-odds")
        objective = PrmObjective(prm, encoder, encoded, outcomes, "mse", aggregate, 16, upper)
        names = list(outcomes)
        meta_set = Pairs({"m": names[:4], "n": names[4:]}, outcomes, 4, 0) if pairs else Singles(names, 8, 0)
        self.run = Weighted(config, objective, prm.trained(), Stream("train", groups, 2, 0), meta_set)
        self.prm = prm
        for _ in range(warm):  # the next step is the first upper one
            self.run.step()
        self.rows = self.run.train.rows(self.run.done)
        self.phi = [p.detach().clone() for p in self.run.parameters]
        states = [self.run.optimiser.state[p] for p in self.run.parameters]
        self.m = [s["exp_avg"].clone() for s in states]
        self.s = [s["exp_avg_sq"].clone() for s in states]
        self.number = int(states[0]["step"]) + 1

    def restore(self) -> None:
        with torch.no_grad():
            for p, start, m, s in zip(self.run.parameters, self.phi, self.m, self.s, strict=True):
                p.copy_(start)
                state = self.run.optimiser.state[p]
                state["exp_avg"].copy_(m)
                state["exp_avg_sq"].copy_(s)
                state["step"].fill_(self.number - 1)
        self.run.optimiser.zero_grad(set_to_none=True)

    def lower_step(self, weights: dict[str, float]) -> list[torch.Tensor]:
        """The real step from the warm state; returns the unclipped gradient."""
        self.restore()
        self.run.given = weights
        self.run._backward([n for part in self.rows.values() for n in part], self.rows)
        total = [g.clone() for g in gradients(self.run.parameters)]
        if self.run.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.run.parameters, self.run.config.clip)
        self.run.optimiser.step()
        self.run.optimiser.zero_grad(set_to_none=True)
        return total

    def rows_truth(self, size: float = 1e-4) -> torch.Tensor:
        """Central differences of the meta loss after the step, in the weight of each row of the batch."""
        found = []
        for name in self.names:
            ends = []
            for sign in (1, -1):
                self.weighted_step({name: sign * size})
                ends.append(self.run.meta_gradient(0)[1])
            found.append((ends[0] - ends[1]) / (2 * size))
        return torch.tensor(found, dtype=torch.float64)

    @property
    def names(self) -> list[str]:
        return [name for part in self.rows.values() for name in part]

    def row_losses(self) -> torch.Tensor:
        """Loss / rows of each row of the batch, [rows] in the order of `names`, in one forward."""
        ((part, losses),) = self.run.objective.train_losses(self.names)
        assert part == self.names
        return losses / len(part)

    def row_weights(self) -> torch.Tensor:
        return torch.tensor([WEIGHTS[domain] for domain, part in self.rows.items() for _ in part], dtype=torch.float64)

    def weighted_step(self, changes: dict[str, float]) -> None:
        """The real step with the rows' weights changed by these."""
        self.restore()
        weights = self.row_weights() + torch.tensor([changes.get(name, 0.0) for name in self.names])
        (weights * self.row_losses()).sum().backward()
        if self.run.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.run.parameters, self.run.config.clip)
        self.run.optimiser.step()
        self.run.optimiser.zero_grad(set_to_none=True)

    def truth(self, size: float = 1e-4) -> torch.Tensor:
        """Central differences of the meta loss after the step, in each weight."""
        found = []
        for domain in WEIGHTS:
            ends = []
            for sign in (1, -1):
                self.lower_step({**WEIGHTS, domain: WEIGHTS[domain] + sign * size})
                ends.append(self.run.meta_gradient(0)[1])
            found.append((ends[0] - ends[1]) / (2 * size))
        return torch.tensor(found, dtype=torch.float64)

    def exact(self) -> tuple[AdamStep, list[torch.Tensor]]:
        """The step that was taken, and the meta gradient after it."""
        total = self.lower_step(WEIGHTS)
        after, _ = self.run.meta_gradient(0)
        config = self.run.config
        return (
            AdamStep(config.lr, config.betas, config.epsilon, self.number, self.m, self.s, total, config.clip),
            after,
        )

    def dots(self, towards: list[torch.Tensor], settle: bool) -> torch.Tensor:
        """-<D, g_k> at the warm state, domain by domain."""
        self.restore()
        self.run.given = WEIGHTS
        running = RunningDots(self.run.parameters, towards, torch.float64 if settle else None)
        for domain in WEIGHTS:
            self.run._backward(self.rows[domain], self.rows)
            running.read(WEIGHTS[domain])
        return -torch.tensor(running.settle(self.run.config.clip) if settle else running.plain(), dtype=torch.float64)

    def lagged(self) -> torch.Tensor:
        """What the product does: meta gradient before the step, cheap scale, clipping undone exactly."""
        self.restore()
        meta, _ = self.run.meta_gradient(0)
        return self.dots(direction(self.run.parameters, meta, self.run.optimiser, 0), settle=True)


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def cosine(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float(torch.dot(found, truth) / (found.norm() * truth.norm()))
