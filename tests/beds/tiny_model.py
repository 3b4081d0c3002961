"""A random tiny model of the demo's architecture, saved to a folder: real code paths, no training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from making import network
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from curate.engines.base import Image
from curate.seeds import content_hash

# Enough for a few merges; byte-level, so that any text goes through.
CORPUS = ["Step 1: How many dots are there? The answer is 7.\nFinal answer: 7 left word image"] * 3


def save_tiny_model(folder: Path) -> Path:
    """Config, random weights, tokenizer and processor in `folder`, as `from_pretrained` and vLLM load them."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(network.make_config(tokenizer, 64, 2)).save_pretrained(folder)
    network.make_processor(tokenizer).save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """The demo's byte-level tokenizer and template, trained on a line of text instead of all tasks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=network.SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=network.END,
        pad_token=network.EOT,
        additional_special_tokens=network.SPECIALS,
    )
    wrapped.chat_template = network.TEMPLATE
    return wrapped


def image(shade: int, mode: str = "RGB", kind: str = "PNG") -> Image:
    """A plain image of 96 x 96 pixels."""
    sink = io.BytesIO()
    PIL.Image.new("RGB", (96, 96), (shade, 255 - shade, shade // 2)).convert(mode).save(sink, kind)
    return Image(content_hash(sink.getvalue()), sink.getvalue())
