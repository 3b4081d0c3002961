"""A random tiny model of the demo's architecture, saved to a folder: real code paths, no training."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import PIL.Image

from curate.engines.base import Image
from curate.seeds import content_hash

MAKE_MODEL = Path(__file__).parents[2] / "data" / "demo" / "make_model.py"


def save_tiny_model(folder: Path) -> Path:
    """Config, random weights, tokenizer and processor in `folder`, as `from_pretrained` and vLLM load them."""
    spec = importlib.util.spec_from_file_location("demo_make_model", MAKE_MODEL)
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    tokenizer = make.make_tokenizer(0, 640)
    make.torch.manual_seed(0)
    make.Qwen2VLForConditionalGeneration(make.make_config(tokenizer, 64, 2)).save_pretrained(folder)
    make.make_processor(tokenizer).save_pretrained(folder)
    return folder


def picture(shade: int, mode: str = "RGB", kind: str = "PNG") -> Image:
    """A plain picture of 96 x 96 pixels."""
    sink = io.BytesIO()
    PIL.Image.new("RGB", (96, 96), (shade, 255 - shade, shade // 2)).convert(mode).save(sink, kind)
    return Image(content_hash(sink.getvalue()), sink.getvalue())
