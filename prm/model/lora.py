"""LoRA (arXiv 2106.09685): the language model's linear layers as they are, plus trained products of two thin matrices.

y = W x + b + (alpha / rank) up(down(x)), with down [rank, in] and up [out, rank] the only parameters of the layer that
are trained; `up` starts at 0, so that the model starts as it was. `down` and `up` are ordinary linear modules, and the
layer is one whose weight keeps its name: what walks over modules or reads a layer's weight needs to know nothing.

There is no dropout: the trainer looks at a batch more than once (inner products with the meta direction, the clip's
derivative, layers that are computed again), and all looks must see the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import skip_init

from curate.errors import UserError
from prm.config import LoraConfig

Module = Any


class Adapted(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer with an adapter; takes over the parameters of `linear`."""

    def __init__(self, linear: Module, config: LoraConfig, generator: Any) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = config.alpha / config.rank
        place = {"bias": False, "device": linear.weight.device, "dtype": torch.float32}
        self.down = skip_init(torch.nn.Linear, self.in_features, config.rank, **place)
        self.up = skip_init(torch.nn.Linear, config.rank, self.out_features, **place)
        bound = self.in_features**-0.5
        with torch.no_grad():
            drawn = torch.rand(self.down.weight.shape, generator=generator)
            self.down.weight.copy_((2 * drawn - 1) * bound)
            self.up.weight.zero_()
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return functional.linear(x, self.weight, self.bias) + self.scale * self.up(self.down(x))

    def plain(self) -> Module:
        """One linear layer that does the same: W + (alpha / rank) up down, in float32 or better."""
        made = torch.nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        change = self.scale * (self.up.weight @ self.down.weight)
        made.weight, made.bias = torch.nn.Parameter(self.weight.to(change.dtype) + change), self.bias
        return made


def _linears(root: Module, kind: type) -> Iterator[tuple[Module, str, Module]]:
    """Modules of this very type below `root`, in a fixed order: (owner, name there, module)."""
    for owner in list(root.modules()):
        for name, part in list(owner.named_children()):
            if type(part) is kind:
                yield owner, name, part


def _attends(layer: Module) -> set[Module]:
    """What lies within the attention of a layer."""
    named = [part for name, part in layer.named_modules() if "attn" in name or "attention" in name]
    return {inner for part in named for inner in part.modules()}


def adapt(model: Module, layers: Sequence[Module], config: LoraConfig, seed: int) -> None:
    """Freeze `model` and give adapters to the linear parts of `layers`; UserError when there are none.

    The same seed starts the same adapters.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    count = 0
    for layer in layers:
        within = _attends(layer) if config.targets == "attention" else set(layer.modules())
        for owner, name, linear in _linears(layer, torch.nn.Linear):
            if linear in within:
                setattr(owner, name, Adapted(linear, config, generator))
                count += 1
    if not count:
        raise UserError(
            f"`train.lora` found no linear layer (targets: {config.targets}) in the {type(model).__name__}; set "
            "train.lora to null for full fine-tuning."
        )


def halve(model: Module) -> None:
    """Keep the frozen matrices in bfloat16, where autocast would round them in every forward anyway.

    Vectors (norms, biases) stay in float32, and so does what is trained.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)


@torch.no_grad()  # type: ignore[untyped-decorator]
def fold(model: Module) -> None:
    """Merge the adapters into their layers' weights, for good; all in float32 or better then, and on the CPU.

    Nothing is changed where there are none.
    """
    adapted = list(_linears(model, Adapted))
    if not adapted:
        return
    model.to("cpu")
    for owner, name, layer in adapted:
        setattr(owner, name, layer.plain())
    for parameter in model.parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
