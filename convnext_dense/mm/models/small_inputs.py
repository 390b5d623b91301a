"""Images smaller than the network's stride: padded after normalisation, and cropped from the prediction.

A ConvNeXt has no position left of an image below 32 pixels. mmseg pads images in training only; mmdet pads to
``pad_size_divisor``, which a config may set to 1. Images that are large enough are not touched.
"""

from functools import partial
from typing import Any

from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.support.modules import unwrapped


def smallest_side(model: nn.Module) -> int:
    """Pixels that each side of an image needs: of the backbone, 0 where it does not say."""
    return int(getattr(getattr(model, "backbone", None), "smallest_side", 0))


def pad_small_inputs(model: nn.Module) -> None:
    """Let the preprocessor of ``model`` pad what is too small for its backbone; safe to repeat.

    Looks inside wrappers for distributed and augmented testing.
    """
    model = unwrapped(model)
    preprocessor, side = getattr(model, "data_preprocessor", None), smallest_side(model)
    if side and isinstance(preprocessor, nn.Module) and not getattr(preprocessor, "pads_small", False):
        preprocessor.register_forward_hook(partial(_pad, side), with_kwargs=True)
        preprocessor.pads_small = True


def _pad(side: int, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """Pad the inputs (N, C, H, W) on the right and below, and say so in the samples."""
    inputs = output.get("inputs") if isinstance(output, dict) else None
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or min(inputs.shape[2:]) >= side:
        return output
    bottom, right = (max(side - n, 0) for n in inputs.shape[2:])
    value = getattr(module, "pad_val", getattr(module, "pad_value", 0))
    padded = F.pad(inputs, (0, right, 0, bottom), value=value)
    training = kwargs.get("training", args[1] if len(args) > 1 else False)
    for sample in output.get("data_samples") or ():
        _note(sample, (right, bottom), tuple(padded.shape[2:]))
        if training and "gt_sem_seg" in sample and "data" in sample.gt_sem_seg:
            labels = F.pad(
                sample.gt_sem_seg.data, (0, right, 0, bottom), value=getattr(module, "seg_pad_val", 255)
            )
            sample.gt_sem_seg = PixelData(data=labels)
    return {**output, "inputs": padded}


def _note(sample: Any, added: tuple[int, int], hw: tuple[int, int]) -> None:
    """Write the padding where mmseg looks for it, and the shapes where mmdet does."""
    meta = sample.metainfo
    left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
    padding = (left, right + added[0], top, bottom + added[1])
    entries: dict[str, Any] = {"pad_shape": hw, "padding_size": padding, "img_padding_size": padding}
    if "batch_input_shape" in meta:
        entries["batch_input_shape"] = hw
    sample.set_metainfo(entries)
