"""Other families of models through the same code: scores, padding, images, saving, training, instance weights."""

from __future__ import annotations

import types

import pytest
import torch
from family_testbed import READING, SEEING
from prm_testbed import example_rows, fill, to_examples
from step_bench import exact_norm
from train_testbed import settings, updates

from curate.errors import UserError
from curate.tables.schema import EXAMPLES, REJECTS, STEP_SCORES
from prm.bilevel.objective import PrmObjective
from prm.data.encode import Encoded, Encoder, load_processor
from prm.data.examples import Example
from prm.model.aggregate import aggregation
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.scoring import score
from prm.training import train

FAMILIES = (*SEEING, *READING)
ROWS, IMAGES = example_rows(5, "train", ("a", "b"))
TIGHT = {"atol": 1e-12, "rtol": 1e-9}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def loaded(folder: str, family: str, frozen: bool = True, **reading) -> tuple[Prm, Encoder, list[Encoded]]:
    """A PRM in float64 with exact norms, and five rows of unlike lengths; one shows two images, one none."""
    prm = Prm.load(folder, freeze_vision=frozen)
    prm.start_head("scalar", 0, 0, 1)
    prm.double()
    for module in prm.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(exact_norm, module)
    examples = to_examples(ROWS)
    shown = {1: examples[1].image_hashes + examples[0].image_hashes, 2: ()}
    cut = [1 + (2 * i + 2) % 5 for i in range(len(examples))]
    changed = [
        Example(
            **vars(e)
            | {name: getattr(e, name)[: cut[i]] for name in ("steps", "values", "weights")}
            | {"image_hashes": () if family in READING else shown.get(i, e.image_hashes)}
        )
        for i, e in enumerate(examples)
    ]
    store = {} if family in READING else {row["image_hash"]: row["bytes"] for row in IMAGES}
    encoder = Encoder(load_processor(folder, None), store, "Check each step.", 700, **reading)
    return prm, encoder, [encoder.encode(example) for example in changed]


def own_score(prm: Prm, encoder: Encoder, row: Encoded, ids: torch.Tensor) -> torch.Tensor:
    """Score at the last of these ids [T], by transformers' own forward of the family, as a processor would call it."""
    prompt = encoder.prompt(row.example)
    more = prompt.pixels()
    if prompt.images:
        more["mm_token_type_ids"] = torch.nn.functional.pad(prompt.kinds, (0, len(ids) - len(prompt.kinds)))[None]
    hidden = prm.base(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False, **more)
    return prm.score(hidden.last_hidden_state[0, -1])[0]


@torch.no_grad()
def test_one_forward_gives_the_scores_of_every_prefix_alone(folders, family):
    prm, encoder, rows = loaded(folders(family), family)
    for row, together in zip(rows, prm(rows, encoder.prompt), strict=True):
        alone = torch.stack([own_score(prm, encoder, row, row.ids[: read + 1]) for read in row.reads])
        torch.testing.assert_close(together, alone, **TIGHT)
    assert max(float(scores.max() - scores.min()) for scores in prm(rows, encoder.prompt)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "vision"])
def test_a_batch_gives_what_its_rows_give_and_one_row_changes_no_other(folders, family, frozen):
    prm, encoder, rows = loaded(folders(family), family, frozen)
    together = prm(rows, encoder.prompt)
    for row, scores in zip(rows, together, strict=True):
        torch.testing.assert_close(prm([row], encoder.prompt)[0], scores, **TIGHT)
    other = encoder.encode(Example(**{**vars(rows[1].example), "steps": ("Quite another thing. " * 30,)}))
    changed = prm([rows[0], other, *rows[2:]], encoder.prompt)
    assert len(other.ids) > max(len(row.ids) for row in rows)
    for place in (0, 2, 3, 4):
        torch.testing.assert_close(changed[place], together[place], **TIGHT)


@pytest.mark.parametrize("family", SEEING)
def test_images_are_seen_once_where_the_tower_is_frozen_and_matter(folders, family):
    prm, encoder, rows = loaded(folders(family), family)
    seen = []
    for name, part in prm.backbone.seeing():
        assert not any(parameter.requires_grad for parameter in part.parameters())
        part.register_forward_hook(lambda *_, name=name: seen.append(name))
    before = prm(rows, encoder.prompt)
    # Four rows show images, one of them two together.
    parts = len(list(prm.backbone.seeing()))
    assert len(seen) == 4 * parts
    again = prm(rows[::-1], encoder.prompt)[::-1]
    assert len(seen) == 4 * parts
    assert all(torch.allclose(a, b, **TIGHT) for a, b in zip(before, again, strict=True))
    other = encoder.encode(Example(**{**vars(rows[0].example), "image_hashes": rows[3].example.image_hashes}))
    assert float((prm([other], encoder.prompt)[0] - before[0]).detach().abs().max()) > 1e-4
    torch.cat(before).sum().backward()
    assert all(parameter.grad is not None for name, parameter in prm.trained_names() if "embed" not in name)


def test_a_saved_prm_of_any_family_scores_the_same(folders, family, tmp_path):
    prm = Prm.load(folders(family))
    prm.start_head("scalar", 0, 0, 5)
    _, encoder, rows = loaded(folders(family), family)
    prm.save(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    again, other = (
        Prm.load(str(tmp_path)),
        Encoder(load_processor(str(tmp_path), None), encoder.images, "Check each step.", 700),
    )
    assert [type(layer) for layer in again.layers()] == [type(layer) for layer in prm.layers()]
    assert len(prm.layers()) == 2
    with torch.no_grad():
        both = prm(rows, encoder.prompt), again([other.encode(row.example) for row in rows], other.prompt)
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def workspace_for(family: str, make_workspace):
    """A workspace that this family can train on."""
    if family in SEEING:
        return make_workspace(train=6, meta=4, test=2)
    workspace = make_workspace(train=0, meta=0, test=0)
    for role, count in (("train", 6), ("meta", 4), ("test", 2)):
        rows, _ = example_rows(count, role, ("a", "b", "c"))
        fill(workspace, role, [row | {"image_hashes": []} for row in rows], [])
    return workspace


@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize("mode", ["domain", "instance-table"])
def test_every_family_trains_and_scores(folders, make_workspace, family, mode):
    workspace = workspace_for(family, make_workspace)
    config = settings(folders(family), mode=mode, steps=3, rows_per_domain=1, null_runs=0)
    result = train.run(config, workspace, 0)
    assert (result.ledger.taken, result.ledger.out) == (10, 10)
    assert all(row["weight"] != 1 and row["dot"] for row in updates(workspace) if row["update"] == 1)
    before, after = (Prm.load(folder) for folder in (folders(family), str(model_folder(workspace, "seed-0"))))
    for (name, old), (_, new) in zip(before.trained_names(), after.trained_names(), strict=True):
        assert not torch.equal(old, new), name
    assert score.run(workspace).out == 2
    scores = [row["score"] for row in workspace.read(STEP_SCORES).to_pylist()]
    assert len(set(scores)) == 10


@pytest.mark.parametrize(
    ("family", "refused"),
    [("qwen2_5_vl", None), ("qwen3_vl", None), ("internvl", "cls_token belongs to a InternVLVisionEmbeddings")],
)
def test_products_per_rollout_with_an_unfrozen_tower(folders, family, refused):
    """Equal to the gradients of the rollouts alone, or refused by name before anything runs."""
    prm, encoder, rows = loaded(folders(family), family, frozen=False)
    named = {row.example.rollout_id: row for row in rows}
    objective = PrmObjective(prm, encoder, named, {}, "mse", aggregation("mean"), 16)
    parameters = prm.trained()
    torch.manual_seed(5)
    towards = [torch.randn_like(p) for p in parameters]
    if refused:
        with pytest.raises(UserError, match=refused):
            objective.ghost(parameters, towards)
        return
    with objective.ghost(parameters, towards) as ghost:
        ((_, losses),) = objective.train_losses(list(named))
        found = ghost.of(losses.sum())
    for name, product in zip(named, found, strict=True):
        ((_, losses),) = objective.train_losses([name])
        grads = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        alone = sum(float((d * g).sum()) for d, g in zip(towards, grads, strict=True) if g is not None)
        assert product == pytest.approx(alone, rel=1e-9, abs=1e-12)


def test_a_text_only_model_refuses_images_in_one_sentence(folders, make_workspace):
    workspace = make_workspace(train=6, meta=4)
    with pytest.raises(UserError, match=r"^This model reads text only, and the examples show 10 images; use a vision"):
        train.run(settings(folders("qwen2"), steps=1), workspace, 0)
    assert updates(workspace) == []
    text = workspace_for("qwen2", lambda **sizes: make_workspace("text", **sizes))
    train.run(settings(folders("qwen2"), steps=1, mode="uniform"), text, 0)
    fill(text, "pictures", *example_rows(1, "test", ("a",), seed=8))
    with pytest.raises(UserError, match="show 1 images"):
        score.run(text)


def test_a_model_without_a_chat_template_is_refused(folders):
    tokenizer = load_processor(folders("llama"), None)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Encoder(tokenizer, {}, "x", 100)


def test_a_tokenizers_own_limit_cuts_nothing(folders):
    """Only `max_length` leaves an example out; a tokenizer that was saved with a limit must not shorten it."""
    plain, limited = (load_processor(folders("llama"), None) for _ in range(2))
    limited.backend_tokenizer.enable_truncation(5)
    limited.model_max_length = 5
    (row,) = to_examples([ROWS[0] | {"image_hashes": []}])
    whole, other = (Encoder(made, {}, "Check each step.", 600).encode(row) for made in (plain, limited))
    assert other.ids.tolist() == whole.ids.tolist()
    assert len(whole.ids) > 50


def test_too_long_reaches_the_ledger_and_the_rejects(folders, make_workspace):
    workspace = workspace_for("llama", make_workspace)
    rows, _ = example_rows(1, "train", ("a",), seed=4)
    long = rows[0] | {"image_hashes": [], "steps": [step * 60 for step in rows[0]["steps"]]}
    fill(workspace, "long", [long], [])
    ledger = train.run(settings(folders("llama"), steps=1, mode="uniform"), workspace, 0).ledger
    assert (ledger.taken, ledger.out, ledger.rejected) == (11, 10, {"too-long": 1})
    (listed,) = workspace.read(REJECTS).to_pylist()
    assert (listed["problem_id"], listed["reason"]) == (long["problem_id"], "too-long")
    assert "tokens, max_length is 600" in listed["detail"]
    assert workspace.read(EXAMPLES).num_rows == 13
