"""Read positions, padding, images and the head of the PRM."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import network, sequences, sight
from PIL import Image
from prm_testbed import example_rows, to_examples
from transformers import Qwen2VLForConditionalGeneration

from curate.errors import RowError, UserError
from prm.data.encode import Encoder, load_processor, open_image, pieces
from prm.data.examples import Example
from prm.model.reward_model import Prm


@pytest.fixture(scope="module")
def encoder(tiny_model) -> Encoder:
    _, images = example_rows(9, "train", ("a", "b"))
    store = {row["image_hash"]: row["bytes"] for row in images}
    return Encoder(load_processor(tiny_model, None), store, "Check each step.", 600)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return to_examples(example_rows(9, "train", ("a", "b"))[0])


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \n\t", max_size=6), max_size=6))
def test_pieces_keep_the_text_and_never_end_in_white_space(steps):
    moved = pieces(steps)
    assert "".join(moved) == "".join(steps).rstrip()
    assert all(piece == piece.rstrip() for piece in moved)
    assert [bool(piece) for piece in moved] == [bool(step.strip()) for step in steps]


def test_read_positions_close_their_steps(encoder, examples):
    for example in examples:
        encoded = encoder.encode(example)
        for index, read in enumerate(encoded.reads):
            text = encoder.processor.tokenizer.decode(encoded.ids[: read + 1])
            assert text.endswith("".join(example.steps[: index + 1]).rstrip())
        assert encoded.reads[-1] == len(encoded.ids) - 1


def test_encoding_is_what_the_demo_backbone_was_trained_on(encoder, examples):
    example = examples[0]
    source = sequences.Source(encoder.processor.tokenizer, 0, policy=False)
    head = source.head + source.encode(f"{network.CHECK}\n{example.question}<|im_end|>\n<|im_start|>assistant\n")
    lines = "".join(example.steps).split("\n")
    ids, reads = list(head), []
    for index, line in enumerate([*lines[:4], "\n".join(lines[4:])]):
        ids += source.encode(("\n" if index else "") + line)
        reads.append(len(ids) - 1)
    encoded = encoder.encode(example)
    assert encoded.ids.tolist() == ids
    assert list(encoded.reads) == reads
    image = np.asarray(open_image(encoder.images[example.image_hashes[0]], "one"))
    made = encoder.prompt(example).pixels()["pixel_values"].numpy()
    np.testing.assert_allclose(made, sight.patches(image), atol=1e-5)


def test_a_control_token_in_a_text_is_refused(encoder, examples):
    for changed in ({"question": "what <|image_pad|>?"}, {"steps": ("fine", "bad <|im_end|>", "x", "y", "z")}):
        with pytest.raises(RowError, match="special-token"):
            encoder.encode(Example(**{**vars(examples[0]), **changed}))


def test_too_long_is_left_out_never_cut(tiny_model, encoder, examples):
    short = Encoder(encoder.processor, encoder.images, "Check each step.", 100)
    with pytest.raises(RowError, match="too-long"):
        short.encode(examples[0])


def test_an_empty_step_has_no_read_position(encoder, examples):
    steps = ("One.\n", "  \n", "Two.")
    encoded = encoder.encode(Example(**{**vars(examples[0]), "steps": steps}))
    assert encoded.reads[1] is None
    with pytest.raises(RowError, match="no-step"):
        encoder.encode(Example(**{**vars(examples[0]), "steps": (" ", "\n")}))


def test_a_truncated_image_is_a_row_error(encoder, examples):
    broken = Encoder(encoder.processor, {k: v[:80] for k, v in encoder.images.items()}, "x", 600)
    with pytest.raises(RowError, match="image"):
        broken.encode(examples[0])


def test_images_are_upright_and_on_white():
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(clear, "PNG")
    assert open_image(clear.getvalue(), "clear").getpixel((0, 0)) == (255, 255, 255)
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 8)).save(turned, "PNG", exif=exif)
    assert open_image(turned.getvalue(), "turned").size == (8, 4)


@pytest.mark.parametrize("frozen", [True, False])
def test_padding_and_batching_change_nothing(tiny_model, encoder, examples, frozen):
    """Every row of a batch of unlike lengths and images scores as it does alone, through the model's own forward."""
    prm = Prm.load(tiny_model, freeze_vision=frozen)
    prm.start_head("scalar", 0, 0, 1)
    cut = [Example(**{**vars(e), "steps": e.steps[: 1 + i % 5]}) for i, e in enumerate(examples)]
    batch = [encoder.encode(e) for e in cut]
    with torch.no_grad():
        together = prm(batch, encoder.prompt)
        for row, logits in zip(batch, together, strict=True):
            prompt = encoder.prompt(row.example)
            plain = prm.base(
                input_ids=row.ids[None], mm_token_type_ids=row.kinds[None], use_cache=False, **prompt.pixels()
            ).last_hidden_state[0, list(row.reads)]
            torch.testing.assert_close(logits, prm.score(plain)[:, 0], atol=2e-5, rtol=2e-5)


def test_other_architectures_take_the_general_path(tiny_model, encoder, examples):
    prm = Prm.load(tiny_model, freeze_vision=False)
    prm.start_head("scalar", 0, 0, 1)
    batch = [encoder.encode(e) for e in examples[:3]]
    with torch.no_grad():
        merged = torch.cat(prm(batch, encoder.prompt))
        prm.backbone.known = False
        torch.testing.assert_close(torch.cat(prm(batch, encoder.prompt)), merged, atol=2e-5, rtol=2e-5)


def test_the_image_matters(tiny_model, encoder, examples):
    prm = Prm.load(tiny_model)
    prm.start_head("scalar", 0, 0, 1)
    other = Example(**{**vars(examples[0]), "image_hashes": examples[1].image_hashes})
    with torch.no_grad():
        a, b = prm([encoder.encode(examples[0]), encoder.encode(other)], encoder.prompt)
    assert (a - b).abs().max() > 1e-3


def test_a_later_step_changes_no_earlier_score(tiny_model, encoder, examples):
    prm = Prm.load(tiny_model)
    prm.start_head("scalar", 0, 0, 1)
    other = Example(**{**vars(examples[0]), "steps": (*examples[0].steps[:3], "Quite another thing.")})
    with torch.no_grad():
        a, b = prm([encoder.encode(examples[0]), encoder.encode(other)], encoder.prompt)
    torch.testing.assert_close(a[:3], b[:3], atol=1e-5, rtol=1e-5)


def test_label_token_head_is_the_models_own_odds(tiny_model, encoder, examples):
    prm = Prm.load(tiny_model)
    right, wrong = encoder.token("+"), encoder.token("-")
    prm.start_head("label-token", right, wrong, 0)
    causal = Qwen2VLForConditionalGeneration.from_pretrained(tiny_model).eval()
    row = encoder.encode(examples[0])
    prompt = encoder.prompt(row.example)
    with torch.no_grad():
        logits = causal(input_ids=row.ids[None], mm_token_type_ids=row.kinds[None], **prompt.pixels()).logits[0]
        own = logits[list(row.reads), right] - logits[list(row.reads), wrong]
        torch.testing.assert_close(prm([row], encoder.prompt)[0], own, atol=2e-5, rtol=2e-5)


def test_saved_prm_scores_the_same(tiny_model, encoder, examples, tmp_path):
    prm = Prm.load(tiny_model)
    prm.start_head("scalar", 0, 0, 5)
    prm.save(tmp_path)
    again = Prm.load(str(tmp_path))
    row = encoder.encode(examples[0])
    with torch.no_grad():
        assert torch.equal(prm([row], encoder.prompt)[0], again([row], encoder.prompt)[0])


def test_a_missing_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        Prm.load(str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_processor(str(tmp_path / "none"), None)


def test_a_label_token_of_several_tokens_is_a_user_error(encoder):
    with pytest.raises(UserError, match="label_tokens"):
        encoder.token("correct")
