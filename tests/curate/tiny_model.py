"""A random tiny model of the demo's architecture, saved to a folder: real code paths, no training."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import PIL.Image

from curate.engines.base import Image
from curate.seeds import content_hash

# Enough for a few merges; byte-level, so that any text goes through.
CORPUS = ["Step 1: How many dots are there? The answer is 7.\nFinal answer: 7 left word picture"] * 3
MAKE_MODEL = Path(__file__).parents[2] / "data" / "demo" / "make_model.py"


def save_tiny_model(folder: Path) -> Path:
    """Config, random weights, tokenizer and processor in `folder`, as `from_pretrained` and vLLM load them."""
    spec = importlib.util.spec_from_file_location("demo_make_model", MAKE_MODEL)
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    tokenizer = make_tokenizer(make)
    make.torch.manual_seed(0)
    make.Qwen2VLForConditionalGeneration(make.make_config(tokenizer, 64, 2)).save_pretrained(folder)
    make.make_processor(tokenizer).save_pretrained(folder)
    return folder


def make_tokenizer(make: Any) -> Any:
    """The demo's byte-level tokenizer and template, trained on a line of text instead of all tasks."""
    tokenizer = make.Tokenizer(make.models.BPE())
    tokenizer.pre_tokenizer = make.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = make.decoders.ByteLevel()
    trainer = make.trainers.BpeTrainer(
        vocab_size=320, special_tokens=make.SPECIALS, initial_alphabet=make.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped = make.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=make.END, pad_token=make.EOT, additional_special_tokens=make.SPECIALS
    )
    wrapped.chat_template = make.TEMPLATE
    return wrapped


def picture(shade: int, mode: str = "RGB", kind: str = "PNG") -> Image:
    """A plain picture of 96 x 96 pixels."""
    sink = io.BytesIO()
    PIL.Image.new("RGB", (96, 96), (shade, 255 - shade, shade // 2)).convert(mode).save(sink, kind)
    return Image(content_hash(sink.getvalue()), sink.getvalue())
