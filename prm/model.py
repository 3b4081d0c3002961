"""The PRM: a vision-language model's last hidden state and a bias-free linear head. score = sigmoid(head(h)).

The language-model head is never run. One linear row without bias is also what vLLM can serve. Both kinds of head are
this row; they differ in how it starts: `label-token` takes the difference of two rows of the language-model head, so
that the score starts as the model's own odds of "right" against "wrong"; `scalar` starts at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

from curate.engines.torch_companions import mend
from curate.errors import UserError
from prm.encode import Encoded, Kept, Prompt
from prm.lora import fold
from prm.losses import to_device

mend()

from transformers import AttentionInterface, AutoModelForImageTextToText  # noqa: E402 - after the mending
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

Tensor = Any
HEAD_FILE = "prm_head.safetensors"
# Architectures whose forward takes ready embeddings with image features put in, and 3-row position ids.
_MERGED_INPUT = ("qwen2_vl", "qwen2_5_vl")
VISION = ("visual", "vision_tower", "vision_model")
# Prompts whose rotary positions are kept: 24 bytes a token.
_PLACES = 4096


def _attend_in_float32(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **rest: Any
) -> tuple[Tensor, Any]:
    out, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **rest)
    return out.to(query.dtype), weights


# On a CPU the bf16 backward of attention is several times slower than the float32 one.
AttentionInterface.register("sdpa_float32", _attend_in_float32)


def _load(folder: str, revision: str | None) -> Any:
    disable_progress_bar()
    try:
        return AutoModelForImageTextToText.from_pretrained(
            folder, revision=revision, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The model {folder} cannot be loaded ({reason}); `train.model` must be a folder or hub id of a "
            "vision-language model with safetensors weights."
        ) from None


class Prm(torch.nn.Module):  # type: ignore[misc]
    """Scores every step of a batch of encoded examples in one forward."""

    def __init__(self, causal: Any, freeze_vision: bool, cache_megabytes: int) -> None:
        super().__init__()
        # The language-model head is kept for saving only, outside of this module's parameters.
        self._causal = (causal,)
        self.base = causal.model
        hidden = causal.config.get_text_config().hidden_size
        self.score = torch.nn.Linear(hidden, 1, bias=False)
        self.merged = causal.config.model_type in _MERGED_INPUT
        self.precision = torch.float32
        self._features = Kept(cache_megabytes)
        self._places: dict[tuple[Any, ...], Tensor] = {}
        self.vision_frozen = freeze_vision
        if freeze_vision:
            for name in VISION:
                if hasattr(self.base, name):
                    getattr(self.base, name).requires_grad_(False)

    @classmethod
    def load(
        cls, model: str, revision: str | None = None, freeze_vision: bool = True, cache_megabytes: int = 256
    ) -> Prm:
        """Backbone from a folder or the hub, float32; the head as saved there, else zeros."""
        prm = cls(_load(model, revision), freeze_vision, cache_megabytes)
        head = Path(model) / HEAD_FILE
        with torch.no_grad():
            prm.score.weight.zero_()
            if head.exists():
                prm.score.weight.copy_(load_file(head)["score.weight"])
        prm.eval()
        return prm

    def save(self, folder: Path) -> None:
        """Backbone and head as safetensors; what `load` and transformers read. Adapters are merged, here and there."""
        fold(self.base)
        self._causal[0].save_pretrained(folder)
        save_file({"score.weight": self.score.weight.detach().cpu().contiguous()}, folder / HEAD_FILE)

    def start_head(self, kind: str, right: int, wrong: int, seed: int) -> None:
        """Start the head: `label-token` from the rows of these two tokens, `scalar` at random (normal, sd 0.02)."""
        with torch.no_grad():
            if kind == "label-token":
                rows = self._causal[0].get_output_embeddings().weight
                self.score.weight.copy_((rows[right] - rows[wrong])[None].float())
            else:
                generator = torch.Generator().manual_seed(seed)
                self.score.weight.copy_(0.02 * torch.randn(self.score.weight.shape, generator=generator))

    def use_precision(self, name: str) -> None:
        """`bfloat16` runs the backbone under autocast; parameters stay float32."""
        self.precision = getattr(torch, name)
        on_cpu = self.score.weight.device.type == "cpu"
        if self.precision == torch.bfloat16 and on_cpu:
            self.base.set_attn_implementation("sdpa_float32")

    def use_compile(self) -> None:
        """Compile each layer of the language model; all have one shape, so that it is done once.

        Before `use_checkpointing`: a compiled layer can be computed again, but one that is computed again is run as it
        is and never compiled.
        """
        for layer in self.layers():
            layer.forward = torch.compile(layer.forward, dynamic=True)

    def use_checkpointing(self) -> None:
        """Layers that are trained keep their input only and compute the rest again in the backward.

        transformers' own switch is for modules in training mode, where there is dropout; this one leaves them as they
        are. It is within the layer's call, whose hooks (sharding's, for one) are outside of it.
        """
        parts = [*self.layers(), *(() if self.vision_frozen else self._blocks(seeing=True))]
        if not parts:
            raise UserError(
                f"The layers of a {type(self.base).__name__} are not known; set train.checkpointing to false."
            )
        for part in parts:
            # Nothing is drawn at random in a forward, so there is no state of it to keep.
            part.forward = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)

    def trained(self) -> list[Tensor]:
        """Parameters that training moves, in a fixed order."""
        return [p for _, p in self.trained_names()]

    def trained_names(self) -> Iterator[tuple[str, Tensor]]:
        """The same with their names."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def layers(self) -> list[torch.nn.Module]:
        """The language model's layers: parts that every forward runs as a whole, one after the other."""
        return self._blocks(seeing=False)

    def _blocks(self, seeing: bool) -> list[torch.nn.Module]:
        """Layers of the vision tower, or of the rest."""
        kinds = set(self._causal[0]._no_split_modules or ())
        tower = {part for name in VISION if hasattr(self.base, name) for part in getattr(self.base, name).modules()}
        found = (part for part in self.base.modules() if type(part).__name__ in kinds)
        return [part for part in found if (part in tower) == seeing]

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self.score.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == torch.bfloat16)  # type: ignore[no-any-return]

    def _image_features(self, pixels: Mapping[str, Tensor]) -> Tensor:
        device = self.score.weight.device
        values, grids = to_device(pixels["pixel_values"], device), to_device(pixels["image_grid_thw"], device)
        found = self.base.get_image_features(values, grids, return_dict=True)
        return torch.cat(list(found.pooler_output))

    def _frozen_features(self, prompt: Prompt) -> Tensor:
        """Image tokens of a prompt under the frozen vision tower, [tokens, hidden]; kept while there is room."""
        return self._features.get(prompt.images, partial(self._look, prompt))["features"]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _look(self, prompt: Prompt) -> dict[str, Tensor]:
        return {"features": self._image_features(prompt.pixels()).to(self.precision)}

    def _positions(self, encoded: Encoded, prompt: Prompt) -> Tensor:
        """Multimodal rotary positions [3, 1, T] of one unpadded example.

        Those of the prompt are worked out once: what follows it is text, whose positions count on from the largest.
        """
        if not prompt.images:
            return torch.arange(len(encoded.ids)).expand(3, 1, -1)
        known = self._places.get(prompt.key)
        if known is None:
            known, _ = self.base.get_rope_index(
                prompt.ids[None], prompt.kinds[None], image_grid_thw=prompt.shapes["image_grid_thw"]
            )
            if len(self._places) >= _PLACES:
                del self._places[next(iter(self._places))]
            self._places[prompt.key] = known
        after = known.max() + 1 + torch.arange(len(encoded.ids) - known.shape[-1])
        return torch.cat([known, after.expand(3, 1, -1)], dim=-1)

    def hidden(self, batch: Sequence[Encoded], prompts: Sequence[Prompt]) -> Tensor:
        """Last hidden states [rows, longest, hidden] of a batch, padded on the right."""
        width, device = max(len(row.ids) for row in batch), self.score.weight.device
        # The padding token does not matter: no read position sees what comes after it.
        ids = to_device(torch.stack([_pad(row.ids, width) for row in batch]), device)
        if self.merged:
            positions = torch.cat(
                [_pad(self._positions(r, p), width) for r, p in zip(batch, prompts, strict=True)], dim=1
            )
            return self._merged_hidden(ids, to_device(positions, device), prompts)
        mask = torch.stack([_pad(torch.ones_like(row.ids), width) for row in batch]).to(device)
        pixels = _joined(prompts)
        if any(row.kinds.any() for row in batch):
            pixels["mm_token_type_ids"] = torch.stack([_pad(row.kinds, width) for row in batch])
        inputs = {name: value.to(device) for name, value in pixels.items()}
        return self.base(input_ids=ids, attention_mask=mask, use_cache=False, **inputs).last_hidden_state

    def _merged_hidden(self, ids: Tensor, positions: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        embeds = self.base.get_input_embeddings()(ids)
        shown = [prompt for prompt in prompts if prompt.images]
        if shown and self.vision_frozen:
            features = torch.cat([self._frozen_features(prompt) for prompt in shown])
        elif shown:
            features = self._image_features(_joined(shown))
        if shown:
            at = (ids == self.base.config.image_token_id)[..., None].expand_as(embeds)
            embeds = embeds.masked_scatter(at, features.to(embeds.dtype))
        if self.precision == torch.bfloat16:
            # The sum over the layers is then kept in bf16 too, as the model was trained: half the memory traffic.
            embeds = embeds.to(torch.bfloat16)
        # Right padding under a causal mask needs no mask of its own, and attention without one is faster.
        return self.base(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state

    def forward(self, batch: Sequence[Encoded], prompt_of: Callable[[Any], Prompt]) -> list[Tensor]:
        """Step logits of each example, [read steps]; float32, or float64 when the parameters are."""
        prompts = [prompt_of(row.example) for row in batch]
        with self._autocast():
            hidden = self.hidden(batch, prompts)
        width = hidden.shape[1]
        reads = [[read for read in row.reads if read is not None] for row in batch]
        flat = [place * width + read for place, at in enumerate(reads) for read in at]
        picked = hidden.flatten(0, 1)[to_device(torch.tensor(flat), hidden.device)]
        return list(torch.split(self.score(picked.to(self.score.weight.dtype))[:, 0], [len(at) for at in reads]))


def _pad(values: Tensor, width: int) -> Tensor:
    """Zeros on the right of the last dimension up to `width`."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def _joined(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Pixels of several prompts, one after the other."""
    each = [prompt.pixels() for prompt in prompts if prompt.images]
    return {name: torch.cat([pixels[name] for pixels in each]) for name in sorted({n for p in each for n in p})}
