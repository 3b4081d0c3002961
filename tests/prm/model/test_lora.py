"""Adapters: what is trained, what is saved, half precision, products per row; and layers that are computed again."""

import json

import pytest
import torch
from prm_testbed import example_rows, to_examples
from step_bench import Bench
from train_testbed import Fixed, settings, train_config, updates
from transformers import Qwen2VLForConditionalGeneration

from curate.errors import UserError
from prm.bilevel.rollout_level import RolloutLevel
from prm.config import AdamUpper, LoraConfig
from prm.data.encode import Encoder, load_processor
from prm.model.lora import Adapted, adapt, halve
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.scoring import score
from prm.training import train

LORA = LoraConfig(rank=3, alpha=6)


@pytest.fixture(scope="module")
def batch(tiny_model):
    """Three encoded rows with images, and where their prompts come from."""
    rows, images = example_rows(3, "train", ("a", "b"))
    store = {row["image_hash"]: row["bytes"] for row in images}
    encoder = Encoder(load_processor(tiny_model, None), store, "Check each step.", 600)
    return [encoder.encode(row) for row in to_examples(rows)], encoder.prompt


def adapted(folder: str, moved: bool = True, **changes) -> Prm:
    prm = Prm.load(folder)
    prm.start_head("scalar", 0, 0, 2)
    adapt(prm.base, prm.layers(), LORA.model_copy(update=changes), 1)
    if moved:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in prm.trained():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return prm


@pytest.mark.parametrize(("targets", "each"), [("linear", 7), ("attention", 4)])
def test_adapters_and_the_head_are_all_that_is_trained(tiny_model, batch, targets, each):
    prm, plain = adapted(tiny_model, moved=False, targets=targets), Prm.load(tiny_model)
    plain.start_head("scalar", 0, 0, 2)
    names = [name for name, _ in prm.trained_names()]
    assert names[-1] == "score.weight"
    assert len(names) == 2 * each * 2 + 1
    assert all(".layers." in name and ("down" in name or "up" in name) for name in names[:-1])
    assert all("self_attn" in name for name in names[:-1]) == (targets == "attention")
    with torch.no_grad():
        for ours, theirs in zip(prm(*batch), plain(*batch), strict=True):
            assert torch.equal(ours, theirs)
    torch.cat(prm(*batch)).sum().backward()
    # `up` is 0 at the start, so `down` learns from the second step on.
    assert all(p.grad.abs().sum() > 0 for name, p in prm.trained_names() if "down" not in name)
    assert all(p.grad is None for p in prm.parameters() if not p.requires_grad)


def test_the_same_seed_starts_the_same_adapters(tiny_model):
    one, same = (dict(adapted(tiny_model, moved=False).trained_names()) for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one if name != "score.weight")
    other = Prm.load(tiny_model)
    adapt(other.base, other.layers(), LORA, 2)
    assert not torch.equal(other.trained()[0], next(iter(one.values())))


def test_a_saved_prm_is_whole_and_scores_the_same(tiny_model, batch, tmp_path):
    """The folder is that of a PRM that was trained as a whole; transformers reads it; no adapter is left."""
    prm = adapted(tiny_model)
    with torch.no_grad():
        before = torch.cat(prm(*batch))
    prm.save(tmp_path / "adapted")
    Prm.load(tiny_model).save(tmp_path / "plain")
    assert not any(isinstance(module, Adapted) for module in prm.modules())
    files, expected = ({p.name for p in (tmp_path / name).iterdir()} for name in ("adapted", "plain"))
    assert files == expected
    again, plain = Prm.load(str(tmp_path / "adapted")), Prm.load(str(tmp_path / "plain"))
    assert again.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        for merged in (prm, again):
            torch.testing.assert_close(torch.cat(merged(*batch)), before, atol=2e-5, rtol=2e-5)
        assert (torch.cat(plain(*batch)) - before).abs().max() > 0.1
    causal, info = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "adapted", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {parameter.dtype for parameter in causal.parameters()} == {torch.float32}


def test_frozen_matrices_in_half_precision_change_nothing_under_autocast(tiny_model, batch, tmp_path):
    """Bit for bit, with gradients; and the frozen weights take half the room. Saved, they are float32 again."""
    found = []
    for half in (False, True):
        prm = adapted(tiny_model)
        prm.use_precision("bfloat16")
        if half:
            halve(prm.base)
        logits = torch.cat(prm(*batch))
        logits.sum().backward()
        frozen = sum(p.numel() * p.element_size() for p in prm.parameters() if not p.requires_grad)
        found.append((frozen, logits.detach(), [p.grad for p in prm.trained()]))
    (whole, expected, theirs), (less, logits, ours) = found
    assert less < 0.51 * whole
    assert torch.equal(logits, expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(p.dtype == torch.float32 for p in prm.parameters() if p.requires_grad or p.ndim < 2)
    prm.save(tmp_path)
    again = Prm.load(str(tmp_path))
    again.use_precision("bfloat16")
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(again(*batch)), expected, atol=0.1, rtol=0.05)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(UserError, match=r"found no linear layer \(targets: linear\) in the Sequential"):
        adapt(torch.nn.Sequential(), [torch.nn.LayerNorm(3)], LORA, 0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
def test_products_per_row_of_adapters_equal_the_rows_own_gradients(tiny_model, checkpointing):
    made = Bench(tiny_model, True, None, warm=2, lora=LORA, checkpointing=checkpointing)
    parameters = made.run.parameters
    torch.manual_seed(5)
    towards = [torch.randn_like(p) for p in parameters]
    grads = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in made.row_losses())
    expected = [sum(float((d * g).sum()) for d, g in zip(towards, row, strict=True)) for row in grads]
    level = RolloutLevel(made.run.objective, parameters, Fixed(made.names, made.row_weights()))
    assert [one.dot for one in level.backward(made.names, towards)] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def kept_bytes(prm: Prm, batch) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
    """Bytes that a forward keeps for its backward, parameters left out; logits; gradients."""
    mine, seen = {p.untyped_storage().data_ptr() for p in prm.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            # Held, so that no other storage comes to lie at the same place.
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = torch.cat(prm(*batch))
    logits.square().sum().backward()
    return sum(len(storage) for storage in seen.values()), logits.detach(), [p.grad for p in prm.trained()]


@pytest.mark.parametrize("how", ["adapters", "half", "vision"])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(tiny_model, batch, how):
    found = []
    for checkpointing in (False, True):
        prm = Prm.load(tiny_model, freeze_vision=False) if how == "vision" else adapted(tiny_model)
        prm.start_head("scalar", 0, 0, 2)
        prm.use_precision("bfloat16" if how == "half" else "float32")
        if checkpointing:
            prm.use_checkpointing()
        assert not any(module.training for module in prm.modules())
        found.append(kept_bytes(prm, batch))
    (all_of_it, expected, theirs), (less, logits, ours) = found
    print(f"{how}: {less:,} bytes kept of {all_of_it:,}")
    assert less < 0.35 * all_of_it
    assert torch.equal(logits, expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_killed_run_of_adapters_goes_on_to_the_same_end(tiny_model, make_workspace):
    """Exact direction, bfloat16, layers computed again, several forwards a batch; then it is scored."""
    upper = AdamUpper(unroll=2, warmup=1, lr=0.1, meta_rows=4, meta_ema=0.5, direction="exact")
    config = settings(
        tiny_model, lora=LORA, upper=upper, null_runs=0, precision="bfloat16", checkpointing=True, micro_rows=4
    )
    whole, broken = make_workspace("whole"), make_workspace("broken")
    train.run(config, whole, 0)

    def die(run: str, step: int, total: int, info: dict) -> None:
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        train.run(config, broken, 0, die)
    (kept,) = broken.root.rglob("checkpoint.safetensors")
    assert kept.stat().st_size < 0.2 * (model_folder(whole, "seed-0") / "model.safetensors").stat().st_size
    # Whether layers are computed again is no part of a run.
    steps = []
    again = config.model_copy(update={"checkpointing": False})
    train.run(again, broken, 0, lambda run, step, *_: steps.append(step))
    assert steps == [5, 6]
    assert updates(whole) == updates(broken)
    assert [row["weight"] for row in updates(whole) if row["update"] == 2] != [1.0] * 3
    one, other = (Prm.load(str(model_folder(w, "seed-0"))) for w in (whole, broken))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert score.run(whole).out == 4


@pytest.mark.parametrize("mode", ["instance-table"])
def test_weights_of_rollouts_with_adapters(tiny_model, make_workspace, mode):
    """The trainer's own checks hold the rows' products against the whole gradient."""
    workspace = make_workspace()
    train.run(settings(tiny_model, mode=mode, lora=LORA, null_runs=0, checkpointing=True), workspace, 0)
    assert len({row["weight"] for row in updates(workspace) if row["update"] == 2}) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora": {}, "freeze_vision": False}, "leave freeze_vision true"),
        ({"lora": {}, "sharding": "full"}, "sharding full splits what is trained"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
        (
            {"mode": "instance-net", "upper": {"direction": "exact"}},
            r'direction" in the recipe cannot be exact with mode instance-net: that belongs to mode domain',
        ),
        (
            {"mode": "uniform", "upper": {"direction": "exact"}},
            r'"train\.upper" in the recipe has no effect with mode uniform: it belongs to mode domain',
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        train_config(model="m", **given)


def test_what_was_resolved_can_be_read_again():
    config = train_config(model="m", lora={"rank": 8, "targets": "attention"}, upper={"direction": "exact"})
    dumped = config.model_dump(mode="json")
    assert dumped["lora"] == {"rank": 8, "alpha": 32.0, "targets": "attention"}
    assert train_config(**dumped) == config
