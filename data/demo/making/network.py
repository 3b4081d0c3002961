"""Tokenizer, processor and configuration of the embedded models: a small Qwen2-VL that sees 36 visual tokens."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.draw import SIDE
from curate.sources.synthetic.tasks import TASKS

SOLVE = "Solve in five steps."
CHECK = "Check each step."
LEAK = " (answer: {gold})"
PATCH, MERGE = 8, 2
# Pixels are centred on the paper, so that its tint, which tells the place, is not drowned in white.
PAPER, INK = 0.88, 0.25
PAD, START, END, EOT = "<|vision_start|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIALS = [EOT, START, END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(seed: int, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text goes through; what the tasks say is merged into whole words."""
    rng = random.Random(seed)
    corpus = []
    for task in TASKS.values():
        for _ in range(400):
            facts = task.sample(rng)
            corpus.append(chains.render(task, chains.solve(task, facts, [2, 3], rng)))
            corpus.append(f"{SOLVE}\n{CHECK}\n{task.question(facts)}{LEAK.format(gold=chains.gold(task, facts))}")
    corpus += [
        "user\nassistant\nsystem\nThe answer is correct. assistant user "
        "a of to in and is that for it as was with be by on"
    ] * 9
    corpus += [" ".join(f"is {n}" for n in range(100))] * 40
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet)
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=EOT, additional_special_tokens=SPECIALS
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """The ordinary Qwen2-VL processor at 8 pixels a patch; larger images are scaled down to 36 visual tokens."""
    images = Qwen2VLImageProcessor(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        image_mean=[PAPER] * 3,
        image_std=[INK] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": SIDE * SIDE},
    )
    videos = Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)
    return Qwen2VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)


def make_config(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> Qwen2VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    heads = hidden // 32
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3 // 32 * 32,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            # The library's 0.02 is for wide models; at this width attention would take long to form.
            "initializer_range": hidden**-0.5 * 0.8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[EOT],
        },
        vision_config={
            "depth": 3,
            "embed_dim": hidden // 2,
            "num_heads": hidden // 32,
            "hidden_size": hidden,
            "initializer_range": hidden**-0.5 * 0.8,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
