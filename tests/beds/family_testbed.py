"""Tiny random models of other families in folders, each with its own configuration, processor and tokenizer classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from making import network
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SEEING = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")
READING = ("qwen2", "qwen3", "llama")
PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
# What InternVL's tokenizer says of itself; the pieces are those that the embedded tokenizer has.
MARKS = {
    "start_image_token": "<|vision_start|>",
    "end_image_token": "<|vision_end|>",
    "context_image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
PLAIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'].strip() }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Processors of InternVL put the marks round an image themselves.
INTERN_TEMPLATE = network.TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _marks(tokenizer: Any) -> dict[str, int]:
    pieces = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    pieces |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {name: tokenizer.convert_tokens_to_ids(f"<|{piece}|>") for name, piece in pieces.items()}


def _images(patch: int) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(patch_size=patch, merge_size=2, temporal_patch_size=2, size=PIXELS)


def _qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope, layer_types=["full_attention"] * 2),
        # Windows of 16 pixels, in the first block only.
        vision_config={
            "depth": 2, "hidden_size": 16, "num_heads": 1, "intermediate_size": 32, "out_hidden_size": 32,
            "patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1],
        },
        **_marks(tokenizer),
    )  # fmt: skip
    videos = Qwen2VLVideoProcessor(patch_size=8, merge_size=2, temporal_patch_size=2)
    return config, Qwen2_5_VLProcessor(_images(8), tokenizer, videos, chat_template=network.TEMPLATE)


def _qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope),
        # Two blocks of the tower feed the language model's layers directly.
        vision_config={
            "depth": 3, "hidden_size": 16, "num_heads": 1, "intermediate_size": 32, "out_hidden_size": 32,
            "patch_size": 8, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
        },
        **_marks(tokenizer),
    )  # fmt: skip
    videos = Qwen3VLVideoProcessor(patch_size=8, merge_size=2, temporal_patch_size=2)
    return config, Qwen3VLProcessor(_images(8), tokenizer, videos, chat_template=network.TEMPLATE)


def _internvl(tokenizer: Any) -> tuple[Any, Any]:
    config = InternVLConfig(
        text_config=_text(tokenizer, model_type="qwen2", layer_types=["full_attention"] * 2),
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 32,
            "image_size": [32, 32], "patch_size": [8, 8],
        },
        image_token_id=_marks(tokenizer)["image_token_id"],
        image_seq_length=4,
    )  # fmt: skip
    named = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=network.END,
        pad_token=network.EOT,
        extra_special_tokens=MARKS,
    )
    # Images are cut into up to four tiles and a thumbnail.
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    videos = InternVLVideoProcessor(size={"height": 32, "width": 32})
    processor = InternVLProcessor(images, named, videos, image_seq_length=4, chat_template=INTERN_TEMPLATE)
    return config, processor


def _reader(tokenizer: Any, config: type) -> tuple[Any, Any]:
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=network.END,
        pad_token=network.EOT,
        additional_special_tokens=network.SPECIALS,
    )
    plain.chat_template = PLAIN_TEMPLATE
    return config(**_text(tokenizer)), plain


def build(family: str, folder: Path) -> None:
    """A random model of the family in `folder`, with what reads its input."""
    tokenizer = network.make_tokenizer(1, 640)
    makers = {
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "internvl": _internvl,
        "qwen2": lambda made: _reader(made, Qwen2Config),
        "qwen3": lambda made: _reader(made, Qwen3Config),
        "llama": lambda made: _reader(made, LlamaConfig),
    }
    config, processor = makers[family](tokenizer)
    auto = AutoModelForCausalLM if family in READING else AutoModelForImageTextToText
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = auto.from_config(config)
        # Large enough that attention, positions and images matter to the output.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
