"""Let mmcv without compiled operators serve detectors: a stand-in for ``mmcv._ext`` over our own.

Those are mmcv-lite, and onedl-mmcv as pip builds it: its isolated build has no torch.

``mmcv.ops`` asks the extension for attributes when it is imported and calls them later. The stand-in has
the four ops that detectors and segmentors call, and for every other name a function that raises when it is
called, naming the op and the remedy. A compiled mmcv is never replaced.

The calling convention is that of the wrappers of mmcv 2.0 and 2.1 (``mmcv/ops/roi_align.py``, ``nms.py``):
results are written into tensors that the caller made. mmcv 2.2 calls these four the same way, but mmdet 3.3
and mmseg 1.2 refuse it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Literal, NoReturn

import torch
from torch import Tensor

from convnext_dense import ops
from convnext_dense.toolboxes import advice, read_toolboxes

REMEDY = "`convnext-dense ops` compiles them for this torch"

_EXT = "mmcv._ext"
_SOFT_NMS_METHODS = ("naive", "linear", "gaussian")  # mmcv passes the position


def install_ops() -> Literal["mmcv", "stand-in"]:
    """Make ``import mmcv.ops``, and with it mmdet and mmseg, work; call it before importing them.

    Idempotent. Returns who serves RoIAlign and NMS: ``"mmcv"`` if it has compiled ops (nothing is changed
    then). It runs at import, so it touches no GPU: a process of several would occupy memory of the first.

    Raises:
        ImportError: no mmcv is installed.
    """
    if isinstance(sys.modules.get(_EXT), _StandIn):
        return "stand-in"
    mmcv = _import_mmcv()
    try:
        importlib.import_module(_EXT)
        return "mmcv"
    except ModuleNotFoundError as error:
        if error.name != _EXT:
            _warn_broken(error)
    except (ImportError, OSError, RuntimeError) as error:
        _warn_broken(error)
    sys.modules[_EXT] = mmcv._ext = _StandIn()
    return "stand-in"


CPU_ONLY = "mmcv compiled for the CPU alone"


def current_ops(device_type: str | None = None) -> str:
    """Name the backend of RoIAlign and NMS for a banner; installs the stand-in where it is needed.

    ``mmcv compiled``, ``torchvision``, ``portable`` or, for a GPU, :data:`CPU_ONLY`: detectors stop there at
    the first RoI. The backend of the stand-in is tried with a small call on the device.

    Args:
        device_type: ``"cpu"``, ``"cuda"`` or another; by default ``"cuda"`` where there is a GPU.
    """
    if install_ops() != "mmcv":
        return ops.op_backend(device_type)
    on_gpu = device_type == "cuda" or (device_type is None and torch.cuda.is_available())
    for_gpus = getattr(sys.modules[_EXT], "get_compiling_cuda_version", str)() != "not available"
    return "mmcv compiled" if for_gpus or not on_gpu else CPU_ONLY


def ops_line(device_type: str) -> str:
    """:func:`current_ops` for a run's first lines, with a remedy where a GPU would stop or wait."""
    name = current_ops(device_type)
    remedies = {
        CPU_ONLY: "a detector stops at its first RoI: `make ops` where nvcc is",
        "portable": "calls for every box: install the torchvision that belongs to this torch",
    }
    return f"{name} ({remedies[name]})" if device_type == "cuda" and name in remedies else name


def _import_mmcv() -> ModuleType:
    try:
        return importlib.import_module("mmcv")
    except ModuleNotFoundError as error:
        if error.name != "mmcv":
            raise
        raise ImportError(f"mmcv is not installed: {advice(read_toolboxes())}") from error


def _warn_broken(error: Exception) -> None:
    cause = str(error).strip().splitlines() or [type(error).__name__]
    warnings.warn(
        f"compiled mmcv ops fail to load ({cause[0]}), so they count as absent; most often they were built "
        "for another torch; `convnext-dense ops --force` compiles them for this one",
        stacklevel=3,
    )


class _StandIn(ModuleType):
    """Module in ``sys.modules['mmcv._ext']`` while mmcv has no compiled ops."""

    def __init__(self) -> None:
        super().__init__(_EXT, "RoIAlign and NMS by convnext_dense.ops; every other op raises when called.")
        # find_spec() refuses a module without a spec. With no loader in it, mmcv's check_ops_exist()
        # still reports correctly that the compiled ops are absent.
        self.__spec__ = ModuleSpec(_EXT, loader=None)
        self.roi_align_forward = _roi_align_forward
        self.roi_align_backward = _roi_align_backward
        self.nms = _nms
        self.softnms = _softnms
        # mmcv.utils.collect_env() calls these two whenever mmcv.ops can be imported.
        self.get_compiler_version = self.get_compiling_cuda_version = _not_compiled

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):  # e.g. __file__, __path__: a module without them must say so
            raise AttributeError(f"module {_EXT!r} has no attribute {name!r}")

        def missing(*args: object, **kwargs: object) -> NoReturn:
            raise NotImplementedError(f"mmcv op {name!r} needs mmcv's compiled operators: {REMEDY}")

        missing.__name__ = name
        return missing


def _not_compiled() -> str:
    return "n/a (no compiled operators)"


def _roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    _refuse_max(pool_mode)
    hw = (aligned_height, aligned_width)
    output.copy_(ops.roi_align(input, rois, hw, spatial_scale, sampling_ratio, aligned))


def _roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    _refuse_max(pool_mode)
    hw = (aligned_height, aligned_width)
    gradient = ops.roi_align_backward(
        grad_output, rois, grad_input.shape, hw, spatial_scale, sampling_ratio, aligned
    )
    grad_input.add_(gradient)  # mmcv's kernels also add to the existing values


def _refuse_max(pool_mode: int) -> None:
    if pool_mode == 0:
        raise NotImplementedError(f"roi_align with pool_mode='max' needs mmcv's compiled operators: {REMEDY}")


def _nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    return ops.nms(boxes, scores, iou_threshold, offset)


def _softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Fill the first M rows of ``dets`` (N, 5) and return the indices (M,)."""
    name = _SOFT_NMS_METHODS[method]
    kept, indices = ops.soft_nms(boxes, scores, iou_threshold, sigma, min_score, name, offset)
    dets[: len(kept)] = kept
    return indices
