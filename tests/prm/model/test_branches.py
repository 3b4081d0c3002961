"""Side branches: every step read after a suffix, in one forward, as if prefix and suffix were the whole text."""

import pytest
import torch
from prm_testbed import to_examples
from test_families import FAMILIES, IMAGES, ROWS, TIGHT, loaded, own_score, workspace_for
from train_testbed import settings, train_config
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from curate.errors import RowError, UserError
from curate.tables.schema import STEP_SCORES
from prm.data.encode import Encoder, load_processor
from prm.data.examples import Example, read_examples, read_images
from prm.model.reward_model import Prm
from prm.model.saved import model_folder, read_card
from prm.scoring import score
from prm.training import train

CLOSING = "<|im_end|>\n<|im_start|>assistant\n"


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [None, " So far so good?"], ids=["chat", "own"])
def test_branches_equal_each_prefix_and_suffix_alone(folders, family, suffix):
    prm, encoder, rows = loaded(folders(family), family, read="branch", suffix=suffix)
    assert encoder.suffix == (suffix or CLOSING)
    tail = torch.tensor(encoder.tokens(encoder.suffix))
    plain = Encoder(encoder.processor, encoder.images, "Check each step.", 700)
    for row, together in zip(rows, prm(rows, encoder.prompt), strict=True):
        short = plain.encode(row.example)
        assert len(row.ids) == len(short.ids) + len(row.reads) * len(tail)
        texts = [torch.cat([short.ids[: read + 1], tail]) for read in short.reads]
        alone = torch.stack([own_score(prm, encoder, row, ids) for ids in texts])
        torch.testing.assert_close(together, alone, **TIGHT)
        assert float((together - prm([short], plain.prompt)[0]).abs().max()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "llama"])
def test_a_batch_of_branches_gives_what_its_rows_give(folders, family):
    prm, encoder, rows = loaded(folders(family), family, read="branch")
    together = prm(rows, encoder.prompt)
    for row, scores in zip(rows, together, strict=True):
        torch.testing.assert_close(prm([row], encoder.prompt)[0], scores, **TIGHT)
    other = encoder.encode(Example(**{**vars(rows[1].example), "steps": ("Quite another thing. " * 30,)}))
    changed = prm([rows[0], other, *rows[2:]], encoder.prompt)
    for place in (0, 2, 3, 4):
        torch.testing.assert_close(changed[place], together[place], **TIGHT)


@torch.no_grad()
def test_a_later_step_and_an_empty_one_change_no_earlier_branch(folders):
    prm, encoder, rows = loaded(folders("qwen2_vl"), "qwen2_vl", read="branch")
    first = rows[0].example
    other = encoder.encode(Example(**{**vars(first), "steps": (first.steps[0], " \n", "Quite another thing.")}))
    assert other.reads[1] is None
    (before,), (after,) = (prm([row], encoder.prompt) for row in (rows[0], other))
    assert len(after) == 2
    torch.testing.assert_close(after[0], before[0], **TIGHT)
    assert float((after[1] - before[1]).abs()) > 1e-6


@torch.no_grad()
def test_half_precision_takes_branches(folders):
    exact, encoder, rows = loaded(folders("qwen2_vl"), "qwen2_vl", read="branch")
    prm = Prm.load(folders("qwen2_vl"))
    prm.start_head("scalar", 0, 0, 1)
    prm.use_precision("bfloat16")
    expected, found = (torch.cat(one(rows, encoder.prompt)).double() for one in (exact, prm))
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(("family", "mode"), [("qwen2_vl", "domain"), ("qwen2", "instance-table")])
def test_training_and_scoring_read_alike(folders, make_workspace, family, mode):
    workspace = workspace_for(family, make_workspace)
    config = settings(folders(family), mode=mode, steps=3, rows_per_domain=1, null_runs=0, read="branch", suffix=" So?")
    train.run(config, workspace, 0)
    folder = model_folder(workspace, "seed-0")
    assert read_card(folder).suffix == " So?"
    score.run(workspace)
    found = {(r["rollout_id"], r["step_index"]): r["score"] for r in workspace.read(STEP_SCORES).to_pylist()}
    examples = read_examples(workspace, ["test"])
    prm, images = Prm.load(str(folder)), read_images(workspace, examples)
    gaps = {}
    for reading in ({"read": "branch", "suffix": " So?"}, {"read": "branch"}, {}):
        encoder = Encoder(load_processor(str(folder), None), images, config.instruction, config.max_length, **reading)
        with torch.no_grad():
            logits = prm([encoder.encode(example) for example in examples], encoder.prompt)
        theirs = [[found[e.rollout_id, step] for step in range(5)] for e in examples]
        gap = torch.sigmoid(torch.stack(logits).double()) - torch.tensor(theirs, dtype=torch.float64)
        gaps[len(reading)] = float(gap.abs().max())
    assert gaps[2] < 1e-6
    assert min(gaps[1], gaps[0]) > 1e-4
    # Another reading is another run.
    with pytest.raises(UserError, match="read"):
        train.run(settings(folders(family), mode=mode, steps=3, rows_per_domain=1, null_runs=0), workspace, 0)


def test_suffixes_count_towards_the_longest_length(tiny_model):
    (example,) = to_examples(ROWS[:1])
    store = {row["image_hash"]: row["bytes"] for row in IMAGES}
    processor = load_processor(tiny_model, None)
    long = len(Encoder(processor, store, "x", 600, read="branch").encode(example).ids)
    with pytest.raises(RowError, match=f"too-long: {long} tokens, max_length is {long - 1}"):
        Encoder(processor, store, "x", long - 1, read="branch").encode(example)


def test_models_that_cannot_have_branches_are_refused(folders, make_workspace, tmp_path):
    sizes = {"vocab_size": 700, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    other = GPT2LMHeadModel(GPT2Config(**sizes))
    with pytest.raises(UserError, match="not known whether gpt2 supports side branches; use step-end"):
        Prm(other, True, 1).backbone.check_branches()
    sliding = Qwen2Config(
        **sizes, num_key_value_heads=1, intermediate_size=64, use_sliding_window=True, sliding_window=8,
        max_window_layers=1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(sliding)
    with pytest.raises(UserError, match="this qwen2 has layers of sliding_attention"):
        Prm(model, True, 1).backbone.check_branches()
    model.save_pretrained(tmp_path / "model")
    load_processor(folders("qwen2"), None).save_pretrained(tmp_path / "model")
    workspace = workspace_for("qwen2", make_workspace)
    with pytest.raises(UserError, match="use step-end"):
        train.run(settings(str(tmp_path / "model"), mode="uniform", read="branch"), workspace, 0)
    # Nothing was left behind that other settings would clash with.
    train.run(settings(str(tmp_path / "model"), mode="uniform", steps=1), workspace, 0)


def test_a_chat_that_writes_nothing_after_its_text_needs_a_suffix(folders):
    tokenizer = load_processor(folders("llama"), None)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(UserError, match=r"set `train\.suffix`"):
        Encoder(tokenizer, {}, "x", 100, read="branch")
    assert Encoder(tokenizer, {}, "x", 100, read="branch", suffix=" So?").suffix == " So?"


def test_settings_of_reading():
    with pytest.raises(UserError, match="suffix has no effect with read step-end"):
        train_config(model="m", suffix="x")
    given = train_config(model="m", read="branch", suffix="x")
    dumped = given.model_dump(mode="json")
    assert train_config(**dumped) == given
    assert (dumped["read"], dumped["suffix"]) == ("branch", "x")
    assert not {"read", "suffix"} & train_config(model="m").model_dump(mode="json").keys()
