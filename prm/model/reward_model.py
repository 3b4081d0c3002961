"""The PRM: a causal model's last hidden state and a bias-free linear head. score = sigmoid(head(h)).

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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from curate.errors import UserError
from curate.models.torch_companions import mend
from prm.data.branches import sight
from prm.data.encode import Encoded, Kept, Prompt
from prm.losses import to_device
from prm.model import digests
from prm.model.backbones import Backbone, load
from prm.model.lora import fold

mend()

from transformers import AttentionInterface  # noqa: E402 - after the mending
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402

HEAD_FILE = "prm_head.safetensors"
# Names of the head's row, in that file or in an exported text-only PRM's own: the second where vLLM looks for it in the
# language model (`prm.serving.export`).
HEAD_NAMES = ("score.weight", "language_model.score.weight")


def _attend_in_float32(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **rest: Any
) -> tuple[Tensor, Any]:
    out, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **rest)
    return out.to(query.dtype), weights


# On a CPU the bf16 backward of attention is several times slower than the float32 one.
AttentionInterface.register("sdpa_float32", _attend_in_float32)


class Prm(torch.nn.Module):  # type: ignore[misc]
    """Scores every step of a batch of encoded examples in one forward."""

    def __init__(self, causal: Any, freeze_vision: bool, cache_megabytes: int) -> None:
        super().__init__()
        # The language-model head is kept for saving only, outside of this module's parameters.
        self._causal = (causal,)
        self.backbone = Backbone(causal)
        self.base = self.backbone.base
        hidden = causal.config.get_text_config().hidden_size
        self.score = torch.nn.Linear(hidden, 1, bias=False)
        self.precision = torch.float32
        self._features = Kept(cache_megabytes)
        self.vision_frozen = freeze_vision
        if freeze_vision:
            for _, part in self.backbone.seeing():
                part.requires_grad_(False)

    @classmethod
    def load(
        cls, model: str, revision: str | None = None, freeze_vision: bool = True, cache_megabytes: int = 256
    ) -> Prm:
        """Backbone from a folder or the hub, float32; the head as saved there, else zeros.

        UserError where the folder is a saved PRM whose files are not those that were saved.
        """
        digests.check(Path(model))
        prm = cls(load(model, revision), freeze_vision, cache_megabytes)
        head = saved_head(Path(model))
        with torch.no_grad():
            prm.score.weight.zero_()
            if head is not None:
                prm.score.weight.copy_(head)
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
                output = self._causal[0].get_output_embeddings()
                if output is None:
                    raise UserError(
                        "This model has no language-model head for train.head: label-token to start from; use scalar."
                    )
                rows = output.weight
                self.score.weight.copy_((rows[right] - rows[wrong])[None].float())
            else:
                generator = torch.Generator().manual_seed(seed)
                self.score.weight.copy_(0.02 * torch.randn(self.score.weight.shape, generator=generator))

    @property
    def causal(self) -> Any:
        """The whole model, with its language-model head where it has one."""
        return self._causal[0]

    def share_features(self, kept: Kept) -> None:
        """Keep the frozen vision tower's features there, for the next PRM with the same tower, device and precision."""
        self._features = kept

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
        """Trained parameters with their names."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def layers(self) -> list[torch.nn.Module]:
        """The language model's layers: parts that every forward runs as a whole, one after the other."""
        return self._blocks(seeing=False)

    def _blocks(self, seeing: bool) -> list[torch.nn.Module]:
        """Layers of the vision tower, or of the rest."""
        kinds = set(self._causal[0]._no_split_modules or ())
        tower = {part for _, whole in self.backbone.seeing() for part in whole.modules()}
        found = (part for part in self.base.modules() if type(part).__name__ in kinds)
        return [part for part in found if (part in tower) == seeing]

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self.score.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == torch.bfloat16)  # type: ignore[no-any-return]

    def _placed(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: to_device(value, self.score.weight.device) for name, value in pixels.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _look(self, prompt: Prompt) -> dict[str, Tensor]:
        found = self.backbone.look(self._placed(prompt.pixels()))
        half = self.precision == torch.bfloat16
        return {name: value.to(self.precision) if half else value for name, value in found.items()}

    def _seen(self, shown: Sequence[Prompt]) -> dict[str, Tensor]:
        """What the images of these prompts become; kept by image while there is room, where the tower is frozen."""
        if not shown:
            return {}
        if not self.vision_frozen:
            return self.backbone.look(self._placed(_joined(shown)))
        each = [self._features.get(prompt.images, partial(self._look, prompt)) for prompt in shown]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}

    def hidden(self, batch: Sequence[Encoded], prompts: Sequence[Prompt]) -> Tensor:
        """Last hidden states [rows, longest, hidden] of a batch, padded on the right."""
        width, device = max(len(row.ids) for row in batch), self.score.weight.device
        # The padding token does not matter: no read position sees what comes after it.
        ids = to_device(torch.stack([_pad(row.ids, width) for row in batch]), device)
        if not self.backbone.known:
            return self._own_forward(batch, prompts, ids)
        laid = [row.branches for row in batch if row.branches is not None]
        positions = None
        # Without branches or images' own positions, tokens count from 0, which the model does by itself.
        if laid or self.backbone.rotary:
            each = [self.backbone.positions(p, row.order()) for row, p in zip(batch, prompts, strict=True)]
            positions = to_device(torch.cat([_pad(one, width) for one in each], dim=-2), device)
        embeds, more = self.backbone.embed(ids, self._seen([prompt for prompt in prompts if prompt.images]))
        if self.precision == torch.bfloat16:
            # The sum over the layers is then kept in bf16 too, as the model was trained: half the memory traffic.
            embeds = embeds.to(torch.bfloat16)
        return self.backbone.run(embeds, positions, sight(laid, width, device) if laid else None, more)

    def _own_forward(self, batch: Sequence[Encoded], prompts: Sequence[Prompt], ids: Tensor) -> Tensor:
        if any(row.branches for row in batch):
            self.backbone.check_branches()
        mask = torch.stack([_pad(torch.ones_like(row.ids), ids.shape[1]) for row in batch]).to(ids.device)
        pixels = _joined(prompts)
        if any(row.kinds.any() for row in batch):
            pixels["mm_token_type_ids"] = torch.stack([_pad(row.kinds, ids.shape[1]) for row in batch])
        inputs = {name: value.to(ids.device) for name, value in pixels.items()}
        return self.base(input_ids=ids, attention_mask=mask, use_cache=False, **inputs).last_hidden_state

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


def saved_head(folder: Path) -> Tensor | None:
    """The head's row [1, hidden] of a PRM in this folder, saved or exported; null where there is none."""
    own = folder / HEAD_FILE
    for path in [own] if own.exists() else sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in set(HEAD_NAMES).intersection(file.keys()):
                row = file.get_tensor(name)
                # Other rewards' heads, which are none of ours, may have that name and more rows.
                if len(row) == 1:
                    return row
    return None


def _pad(values: Tensor, width: int) -> Tensor:
    """Zeros on the right of the last dimension up to `width`."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def _joined(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Pixels of several prompts, one after the other."""
    each = [prompt.pixels() for prompt in prompts if prompt.images]
    return {name: torch.cat([pixels[name] for pixels in each]) for name in sorted({n for p in each for n in p})}
