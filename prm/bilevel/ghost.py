"""Ghost dots: <D, g_i> of every single row, out of one joint backward and without the gradient of any row.

Most layers are linear in their own parameters. If y = f(x; theta) is, and delta is the gradient of row i's loss at its
part of y, then <D, g_i> over theta is <delta, f(x; D)>: what the layer would add to its output if its parameters moved
along D, seen by the loss. So one more forward of each layer in its backward gives the inner products of all rows, per
row, exactly, whatever the optimiser's metric is, because D is explicit (the Gram form of arXiv 2406.11011 and
2602.00329 needs the other gradient as a batch and knows SGD's geometry only).

`Ghost` is a context. Inside it every module that owns parameters of D passes its output through `_Tap`, an identity
whose backward gives the inner products as the gradient of a probe, zeros [rows]. A tap is a function of tensors, so it
is computed again where activations are (checkpointing), and the gradient of the probe alone is enough for the products.

What could be left out silently is not: a parameter whose module has no rule is refused by name before anything runs;
one that got a gradient past its module's forward is named by `check`, which also holds sum_i w_i <D, g_i> against
<D, G> of the accumulated gradient G. Modules must be batch first, [rows, ...], unless the layout says which rows their
packed input belongs to. A module that mixes rows inside (batch norm) has no row gradients and no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from curate.errors import UserError
from prm.bilevel.hypergradient import dot, gradients

Module = Any
# What a module's output changes by when its parameters move: (module, input, direction by parameter name) -> tensor.
Rule = Callable[[Module, Tensor, Mapping[str, Tensor]], Tensor]
# Of the sum of sizes, how far the rows' products may be from the whole; with half-precision layers their rounding.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 2e-2


@dataclass(frozen=True)
class RowLayout:
    """Which row each part of a forward's tensors belongs to.

    `packed` maps a module-name prefix to row indices [n], one tensor for each leading size n that occurs below it; all
    other modules are batch first.
    """

    rows: int
    packed: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)

    def index(self, name: str, output: Tensor) -> Tensor | None:
        """Row of each entry of the leading dimension; None when that is the rows themselves. UserError if neither."""
        size = output.shape[0] if output.ndim else 0
        for prefix, indices in self.packed.items():
            if name == prefix or name.startswith(prefix + "."):
                for index in indices:
                    if len(index) == size:
                        return index.to(output.device)
                break
        else:
            if size == self.rows:
                return None
        raise UserError(
            f"The module {name} gave an output of shape {tuple(output.shape)} to a batch of {self.rows} rollouts, and "
            "which part is whose is not known; weights per rollout cannot be learned on this model, use mode domain."
        )


def _linear(_: Module, x: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    weight, bias = towards.get("weight"), towards.get("bias")
    moved = 0.0 if weight is None else functional.linear(x, weight.to(x.dtype))
    return moved if bias is None else moved + bias.to(x.dtype)


def _embedding(module: Module, ids: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    moved = functional.embedding(ids, towards["weight"])
    if module.padding_idx is None:
        return moved
    # torch gives the row of the padding token no gradient.
    return moved * (ids != module.padding_idx)[..., None]


def _affine(normal: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    moved = normal * towards["weight"] if "weight" in towards else torch.zeros_like(normal)
    return moved + towards["bias"] if "bias" in towards else moved


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _layer_norm(module: Module, x: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    normal = functional.layer_norm(_at_least_float32(x), module.normalized_shape, eps=module.eps)
    return _affine(normal, towards)


def _rms_norm(module: Module, x: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    # transformers' own classes keep it as `variance_epsilon`, torch's as `eps`, where None is the type's rounding.
    epsilon, x = getattr(module, "variance_epsilon", getattr(module, "eps", None)), _at_least_float32(x)
    epsilon = torch.finfo(x.dtype).eps if epsilon is None else epsilon
    return _affine(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon), towards)


def _convolution(module: Module, x: Tensor, towards: Mapping[str, Tensor]) -> Tensor:
    apply = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[module.weight.ndim]
    weight, bias = towards.get("weight"), towards.get("bias")
    weight = torch.zeros_like(module.weight) if weight is None else weight
    bias = None if bias is None else bias.to(x.dtype)
    return apply(x, weight.to(x.dtype), bias, module.stride, module.padding, module.dilation, module.groups)


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def rule_of(module: Module) -> Rule | None:
    """How the output of this module moves with its own parameters; None where that is not known."""
    if isinstance(module, torch.nn.Linear):
        return _linear
    if isinstance(module, torch.nn.Embedding):
        # A norm that is enforced, or gradients scaled by frequency, are not linear in the table.
        return _embedding if module.max_norm is None and not module.scale_grad_by_freq else None
    if isinstance(module, torch.nn.LayerNorm):
        return _layer_norm
    if type(module).__name__.endswith("RMSNorm") and set(module._parameters) == {"weight"}:
        return _rms_norm
    if isinstance(module, _CONVOLUTIONS) and module.padding_mode == "zeros":
        return _convolution
    return None


class _Tap(torch.autograd.Function):  # type: ignore[misc]
    """Identity on `output` [..]; the gradient of `probe` [rows] is <delta, f(x; D)> of each row."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, x: Tensor, probe: Tensor, index: Tensor | None, move: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.index, ctx.move, ctx.rows, ctx.probe_type = index, move, len(probe), probe.dtype
        return output.view_as(output)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        with torch.autocast(delta.device.type, enabled=False):
            parts = (ctx.move(x) * delta).flatten(1).sum(1, dtype=ctx.probe_type)
        if ctx.index is not None:
            parts = parts.new_zeros(ctx.rows).index_add_(0, ctx.index, parts)
        return delta, None, parts, None, None


class Ghost:
    """Context in which forwards of `module` carry probes; after each backward, `take` has the rows' <D, g_i>.

    `towards` is D by parameter; `layout` gets the arguments of the module's forward. UserError at once when a parameter
    of D belongs to a module without a rule.
    """

    def __init__(self, module: Module, towards: Mapping[Tensor, Tensor], layout: Callable[..., RowLayout]) -> None:
        self.module, self.towards, self.layout = module, towards, layout
        self.probe: Tensor | None = None
        self._now: RowLayout | None = None
        self._hooks: list[Any] = []
        self._seen: set[str] = set()
        self._half = False
        self._owners = self._find()

    def _find(self) -> dict[str, tuple[Module, Rule, dict[str, Tensor]]]:
        """Modules that own parameters of D, by name, with their rules and parts of D."""
        owners, found = {}, set[Tensor]()
        for name, module in self.module.named_modules():
            own = {part: p for part, p in module._parameters.items() if p is not None and p in self.towards}
            if not own:
                continue
            rule = rule_of(module)
            if rule is None:
                raise UserError(
                    f"The parameter {name}.{next(iter(own))} belongs to a {type(module).__name__}, for which inner "
                    "products per rollout are not known; freeze it, or use mode domain."
                )
            owners[name] = (module, rule, {part: self.towards[p] for part, p in own.items()})
            found.update(own.values())
        strangers = [tuple(p.shape) for p in self.towards if p not in found]
        if strangers:
            raise ValueError(f"parameters that are not the module's: shapes {strangers}")
        return owners

    def __enter__(self) -> Self:
        """Tap the modules."""
        self._hooks.append(self.module.register_forward_pre_hook(self._begin, with_kwargs=True))
        for name, (module, rule, towards) in self._owners.items():
            self._hooks.append(module.register_forward_hook(self._tap(name, rule, towards), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the modules as they were."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, module: Module, inputs: Any, named: Any) -> None:
        self._now = self.layout(*inputs, **named)
        device = next(iter(self.towards)).device
        self.probe = torch.zeros(self._now.rows, dtype=torch.float64, device=device, requires_grad=True)

    def _tap(self, name: str, rule: Rule, towards: Mapping[str, Tensor]) -> Callable[..., Tensor | None]:
        def hook(module: Module, inputs: Any, named: Any, output: Tensor) -> Tensor | None:
            # The first pass of a reentrant checkpoint keeps no graph; its second one comes here again.
            if not (torch.is_grad_enabled() and output.requires_grad) or self._now is None:
                return None
            self._seen.add(name)
            x = next(iter((*inputs, *named.values()))).detach()
            self._half |= output.element_size() < 4
            if x.is_floating_point() and output.element_size() < x.element_size():
                # Under autocast the layer itself worked in this precision; more would only take memory.
                x = x.to(output.dtype)
            index = self._now.index(name, output)
            return _Tap.apply(output, x, self.probe, index, lambda saved: rule(module, saved, towards))

        return hook

    def take(self) -> list[float]:
        """<D, G_i> of the rows of the last forward, in their order, G_i with the factor of row i in what went backward.

        For a weighted sum of losses it is the row's weight times <D, g_i>. Once a forward; call after its backward.
        """
        if self.probe is None or self.probe.grad is None:
            raise ValueError("nothing went backward since the last forward")
        found: list[float] = self.probe.grad.tolist()
        self.probe = None
        return found

    def of(self, loss: Tensor) -> list[float]:
        """The dots for a loss made of the last forward, without a gradient for anything else."""
        (found,) = torch.autograd.grad(loss, self.probe)
        self.probe = None
        products: list[float] = found.tolist()
        return products

    def check(self, total: float, size: float) -> None:
        """UserError when something trained was left out: call after the backwards, before gradients are cleared.

        `total` is the sum of everything taken since the gradients were zero, `size` the sum of its absolute values.
        """
        for name, (module, _, towards) in self._owners.items():
            used = [part for part in towards if module._parameters[part].grad is not None]
            if used and name not in self._seen:
                raise UserError(
                    f"The parameter {name}.{used[0]} is used past its module, so inner products per rollout would "
                    "leave it out; freeze it, or use mode domain."
                )
        parameters = list(self.towards)
        whole = dot([self.towards[p] for p in parameters], gradients(parameters))
        tolerance = _HALF_TOLERANCE if self._half else _TOLERANCE
        if not abs(whole - total) <= tolerance * max(size, abs(whole)):
            raise UserError(
                f"Inner products per rollout add up to {total:.4g} and not to {whole:.4g}: this model uses "
                "parameters in an unsupported way; use mode domain."
            )
