"""What an upper step costs, counted: rows that go forward and backward, and gradients that are made."""

from collections import Counter

import pytest
from prm_testbed import example_rows, fill
from train_testbed import settings

from curate.tables.store import Store
from prm.training import run, train

# A batch is 3 domains x 2 rows; a cycle is two lower steps, and in the modes that learn one upper step of 4 meta rows.
ROWS, META = 6, 4


@pytest.fixture(scope="module")
def data(tiny_model, tmp_path_factory):
    workspace = Store.open(tmp_path_factory.mktemp("cost"))
    for role, count in (("train", 12), ("meta", 8)):
        fill(workspace, role, *example_rows(count, role, ("a", "b", "c")))
    return train.prepare(settings(tiny_model), workspace)[0]


def cycle(model: str, data, **changes) -> Counter:
    """Counts of the second cycle of a run, taken at the first attention of the language model."""
    upper, mode = changes.pop("upper", {}), changes.setdefault("mode", "domain")
    if mode != "uniform":
        changes["upper"] = {"unroll": 2, "warmup": 0, "meta_rows": META} | upper
    prm, loop = run.start(0, False, settings(model, **changes), data)
    counts = Counter()

    def forward(module, inputs, output):
        counts["forwards"] += 1
        counts["rows forward"] += output.shape[0]
        if output.requires_grad:
            output.register_hook(backward)

    def backward(gradient):
        counts["backwards"] += 1
        counts["rows backward"] += gradient.shape[0]

    def made(parameter):
        counts["gradients"] += 1

    loop.step()
    loop.step()
    prm.layers()[0].self_attn.o_proj.register_forward_hook(forward)
    prm.score.weight.register_post_accumulate_grad_hook(made)
    loop.step()
    loop.step()
    return counts


def counted(rows_forward: int, rows_backward: int, forwards: int, backwards: int, gradients: int) -> Counter:
    return Counter(
        {
            "rows forward": rows_forward, "rows backward": rows_backward, "forwards": forwards,
            "backwards": backwards, "gradients": gradients,
        }
    )  # fmt: skip


PLAIN = counted(2 * ROWS, 2 * ROWS, 2, 2, 2)
# Three domains go backward in place of one batch, and the meta batch is all that is added: 1 + m / U times the rows.
DOMAIN = counted(2 * ROWS + META, 2 * ROWS + META, 5, 5, 5)
ROLLOUTS = counted(2 * ROWS + META, 2 * ROWS + META, 3, 3, 3)


def test_a_plain_cycle(tiny_model, data):
    assert cycle(tiny_model, data, mode="uniform") == PLAIN


@pytest.mark.parametrize("clip", [None, 1e-3], ids=["plain", "clip"])
@pytest.mark.parametrize("clipped", ["correct", "skip", "ignore"])
def test_an_upper_step_adds_the_meta_batch_and_no_more(tiny_model, data, clipped, clip):
    assert cycle(tiny_model, data, clip=clip, upper={"clipped": clipped}) == DOMAIN


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lora": {"rank": 2}}, DOMAIN),
        ({"lora": {"rank": 2}, "clip": 1e-3}, DOMAIN),
        # A step that will be left out is known before the meta batch is looked at.
        ({"clip": 1e-3, "clipped": "skip"}, counted(2 * ROWS, 2 * ROWS, 4, 4, 4)),
    ],
    ids=["plain", "clip", "skip"],
)
def test_an_exact_direction_costs_the_same(tiny_model, data, changes, expected):
    how = {"clipped": changes.pop("clipped", "correct"), "direction": "exact"}
    assert cycle(tiny_model, data, upper=how, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clip": None}, ROLLOUTS),
        ({"clip": 1e-3, "upper": {"clipped": "skip"}}, ROLLOUTS),
        ({"clip": 1e-3, "upper": {"clipped": "ignore"}}, ROLLOUTS),
        # `correct` takes the batch again, for products only: no gradient of a parameter is made.
        ({"clip": 1e-3}, ROLLOUTS + counted(ROWS, ROWS, 1, 1, 0)),
    ],
    ids=["plain", "skip", "ignore", "correct"],
)
def test_weights_of_rollouts_cost_a_second_look_where_clipping_is_corrected(tiny_model, data, changes, expected):
    assert cycle(tiny_model, data, mode="instance-table", **changes) == expected


def test_checkpointing_takes_every_forward_twice(tiny_model, data):
    assert cycle(tiny_model, data, checkpointing=True) == DOMAIN + counted(2 * ROWS + META, 0, 5, 0, 0)
