"""The exact direction and adapters, in the loop's own step, against central differences through that step."""

import pytest
import torch
from oracle import adam_direction
from step_bench import WEIGHTS, Bench, cosine, distance

from prm.bilevel.exact import step_direction
from prm.bilevel.hypergradient import dot
from prm.config import LoraConfig

LORA = LoraConfig(rank=3, alpha=6)
CASES = {
    "lora": {"lora": LORA, "clip": 0.02},
    "lora, checkpointed": {"lora": LORA, "clip": 0.02, "checkpointing": True},
    "lora, not clipped": {"lora": LORA, "clip": None},
    "attention, pairs": {"lora": LORA.model_copy(update={"targets": "attention"}), "clip": 0.02, "pairs": True},
    "full": {"clip": 0.05},
}


@pytest.mark.parametrize("case", CASES)
def test_an_exact_upper_step_is_the_derivative_through_the_real_step(tiny_model, case, record_property):
    """Float64, an image in each row, clipping where the case has it, 20 warm steps."""
    bench = Bench(tiny_model, True, **CASES[case], direction="exact")
    truth = bench.truth()
    step, _ = bench.exact()
    assert step.clip is None or dot(step.gradient, step.gradient) ** 0.5 > 2 * step.clip
    lagged = bench.lagged()
    bench.restore()
    bench.run.given = WEIGHTS
    update = bench.run.step()
    found = -torch.tensor([update.dots[domain] for domain in WEIGHTS], dtype=torch.float64)
    record_property("error", distance(found, truth))
    print(f"{case}: relative error {distance(found, truth):.1e}, cosine of lagged {cosine(lagged, truth):.6f}")
    assert distance(found, truth) < 1e-7
    assert cosine(lagged, truth) > 0.99
    # The step itself is the ordinary one, up to the order of the domains' additions.
    moved = [p.detach().clone() for p in bench.run.parameters]
    bench.lower_step(WEIGHTS)
    for ours, theirs in zip(moved, bench.run.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("how", "expected"), [("ignore", "no clip term"), ("skip", "nothing")])
def test_what_a_clipped_step_says_is_a_setting(tiny_model, how, expected):
    bench = Bench(tiny_model, False, 0.02, lora=LORA, direction="exact", warm=5)
    step, after = bench.exact()
    bench.restore()
    upper = bench.run.config.upper.model_copy(update={"clipped": how})
    bench.run.config = bench.run.config.model_copy(update={"upper": upper})
    bench.run.given = WEIGHTS
    update = bench.run.step()
    if expected == "nothing":
        assert update is None
        assert (bench.run.skipped, bench.run.clipped) == (1, 6)
    else:
        found = -torch.tensor(list(update.dots.values()), dtype=torch.float64)
        assert distance(found, bench.dots(adam_direction(step, after), settle=False)) < 1e-9


def test_the_floor_holds_for_the_step_that_was_taken(tiny_model):
    """An entry whose second moment is next to nothing, and whose gradient is 0 now, has no say of its own size."""
    bench = Bench(tiny_model, False, None, lora=LORA, warm=3)
    state = bench.run.optimiser.state[bench.run.parameters[0]]
    state["exp_avg_sq"][0, 0] = 1e-30
    state["exp_avg"][0, 0] = 0
    still = [torch.zeros_like(p) for p in bench.run.parameters]
    scales = [
        step_direction(bench.run.parameters, [torch.ones_like(p) for p in still], still, bench.run.optimiser, floor)[0]
        for floor in (0, 0.01)
    ]
    typical = bench.run.config.lr * 0.1 / (1 - 0.9**3) / (state["exp_avg_sq"].mean() / (1 - 0.999**3)).sqrt()
    assert scales[0][0, 0] > 100 * scales[1][0, 0]
    assert scales[1][0, 0] == pytest.approx(float(100 * typical), rel=0.05)
