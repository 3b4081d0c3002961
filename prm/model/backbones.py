"""Families of models, and what differs between them: where images go in, how positions count, what is frozen.

Known here, and tested on tiny models of their own classes: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, and text-only
causal language models. Their input is put together outside of the model, so that image tokens are computed once where
they do not change, and no mask is needed for padding on the right. Any other vision-language model goes through its own
forward with everything it takes: the same scores, images seen anew each time, and no side branches
(`prm.data.branches`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from curate.errors import UserError
from curate.models import pretrained
from curate.models.torch_companions import mend
from prm.data.encode import Prompt

mend()

from transformers import (  # noqa: E402 - after the mending
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForTokenClassification,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

# Image tokens have positions in time, height and width: position ids are [3, rows, tokens].
ROTARY = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# Image tokens count like words.
COUNTED = ("internvl",)
# Text-only models whose layers attend by position ids and mask alone.
BRANCHING = ("llama", "qwen2", "qwen3")
TOWERS = ("visual", "vision_tower", "vision_model")
# What brings a tower's output to the language model, where it is no part of the tower.
PROJECTORS = ("multi_modal_projector",)
# What the name of a class says that has a head for every token and none for the vocabulary.
CLASSIFIES = "ForTokenClassification"
# Prompts whose rotary positions are kept: 24 bytes a token.
_PLACES = 4096


def load(folder: str, revision: str | None) -> Any:
    """A causal model in float32 with its language-model head, by its own class; UserError when there is none.

    A token classifier (`as_classifier`) comes without that head.
    """
    disable_progress_bar()
    try:
        config = pretrained.load(AutoConfig, folder, revision)
        seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        classifies = any(name.endswith(CLASSIFIES) for name in config.architectures or ())
        reading = AutoModelForTokenClassification if classifies else AutoModelForCausalLM
        kind = AutoModelForImageTextToText if seeing else reading
        return pretrained.load(
            kind, folder, revision, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The model {folder} cannot be loaded ({reason}); `train.model` must be a folder or hub id of a "
            "vision-language model, or a causal language model, with safetensors weights."
        ) from None


def as_classifier(causal: Any, head: Any) -> Any:
    """Transformers' token classifier of a text-only causal model's family, with its body and this bias-free row.

    It has no other parameters; both share theirs. UserError when the family has none whose head can be such a row.
    """
    config = copy.deepcopy(causal.config)
    # As `GenericForTokenClassification` of transformers 5.19 reads them (its modeling_layers.py).
    config.num_labels, config.token_classification_bias, config.classifier_dropout = 1, False, 0.0
    whole = None
    if type(config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        with torch.device("meta"):
            whole = AutoModelForTokenClassification.from_config(config)
    row = getattr(whole, "score", None)
    if whole is None or not isinstance(row, torch.nn.Linear) or row.bias is not None:
        raise UserError(
            f"transformers has no token classifier of a {config.model_type} with a bias-free head, so no Auto class "
            "could load this PRM; serve it with `prm serve`, or train on Qwen2, Qwen3 or Llama."
        )
    setattr(whole, whole.base_model_prefix, getattr(causal, causal.base_model_prefix))
    whole.score = head
    return whole.eval()


class Backbone:
    """The body of a causal model, without its language-model head, and how to feed it."""

    def __init__(self, causal: Any) -> None:
        self.base = getattr(causal, causal.base_model_prefix)
        self.kind: str = causal.config.model_type
        self.sees = any(hasattr(self.base, name) for name in TOWERS)
        # Whether the input can be put together here.
        self.known = not self.sees or self.kind in (*ROTARY, *COUNTED)
        self.rotary = self.kind in ROTARY
        self._text_config = causal.config.get_text_config()
        self._places: dict[tuple[Any, ...], Tensor] = {}

    def seeing(self) -> Iterator[tuple[str, Any]]:
        """The parts that make image tokens, with their names in `base`."""
        return ((name, getattr(self.base, name)) for name in (*TOWERS, *PROJECTORS) if hasattr(self.base, name))

    def check_branches(self) -> None:
        """UserError when this model cannot have side branches."""
        known = (*ROTARY, *COUNTED, *BRANCHING)
        if self.kind not in known:
            raise UserError(
                f"train.read is branch, and it is not known whether {self.kind} supports side branches; use step-end, "
                f"or a model of these kinds: {', '.join(known)}."
            )
        kinds = set(getattr(self._text_config, "layer_types", None) or ()) - {"full_attention"}
        if kinds:
            raise UserError(
                f"train.read is branch, and this {self.kind} has layers of {', '.join(sorted(kinds))}, whose "
                "attention follows distance and not side branches; use step-end."
            )

    def look(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What images become: `tokens` [image tokens, hidden], and in Qwen3-VL `deep.0`, ... of the same shape.

        `pixels` are all that the model takes for them, where the model is.
        """
        found = self.base.get_image_features(**pixels, return_dict=True)
        seen = {"tokens": torch.cat(list(found.pooler_output))}
        deep = getattr(found, "deepstack_features", None) or ()
        return seen | {f"deep.{level}": torch.cat(list(part)) for level, part in enumerate(deep)}

    def positions(self, prompt: Prompt, order: Tensor) -> Tensor:
        """Position ids of one unpadded row, [3, 1, T] or [1, T]; `order` [T] are the tokens' places in their text.

        Those of a prompt with images are worked out once: what follows it is text, which counts on from the largest.
        """
        if not self.rotary:
            return order[None]
        if not prompt.images:
            return order.expand(3, 1, -1)
        known = self._places.get(prompt.key)
        if known is None:
            known, _ = self.base.get_rope_index(
                prompt.ids[None], prompt.kinds[None], image_grid_thw=prompt.shapes["image_grid_thw"]
            )
            if len(self._places) >= _PLACES:
                del self._places[next(iter(self._places))]
            self._places[prompt.key] = known
        length = known.shape[-1]
        after = known.max() + 1 + order[length:] - length
        return torch.cat([known, after.expand(3, 1, -1)], dim=-1)

    def embed(self, ids: Tensor, seen: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Input embeddings [rows, T, hidden] of ids [rows, T] with the images in their places, and what the language
        model takes for these besides.
        """
        embeds = self.base.get_input_embeddings()(ids)
        if not seen:
            return embeds, {}
        at = ids == self.base.config.image_token_id
        embeds = embeds.masked_scatter(at[..., None].expand_as(embeds), seen["tokens"].to(embeds.dtype))
        deep = [part for name, part in seen.items() if name != "tokens"]
        return embeds, {"visual_pos_masks": at, "deepstack_visual_embeds": deep} if deep else {}

    def run(self, embeds: Tensor, positions: Tensor | None, mask: Tensor | None, more: Mapping[str, Any]) -> Tensor:
        """Last hidden states [rows, T, hidden] of the language model.

        Right padding under a causal mask needs no mask of its own, and attention without one is faster.
        """
        language = getattr(self.base, "language_model", self.base)
        return language(
            inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False, **more
        ).last_hidden_state
