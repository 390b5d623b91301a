"""The networks of the paper as plain functions of a state dict: an oracle for whole models.

Nothing here is a class of this package or of a toolbox. Convolutions, norms and resizing are those of
``torch.nn.functional``; weights are looked up by their released names. Everything runs in evaluation mode.

Backbone   ConvNeXt: https://arxiv.org/abs/2201.03545
Detector   FPN: https://arxiv.org/abs/1612.03144, with the RPN of https://arxiv.org/abs/1506.01497
Segmentor  UperNet: https://arxiv.org/abs/1807.10221
"""

from collections.abc import Mapping
from itertools import count

from torch import Tensor, cat
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
POOLED_SIDES = (1, 2, 3, 6)  # of UperNet's pyramid pooling
LAYER_NORM_EPS, BATCH_NORM_EPS = 1e-6, 1e-5


def conv(w: Weights, name: str, x: Tensor, **options) -> Tensor:
    """(N, C, H, W) -> (N, C', H', W'); padded to keep the size where the kernel is 3x3."""
    kernel = w[f"{name}.weight"]
    padding = {3: 1}.get(kernel.shape[-1], 0)
    bias = w.get(f"{name}.bias")
    return F.conv2d(x, kernel, bias, **{"padding": padding, **options})


def conv_norm_relu(w: Weights, name: str, x: Tensor) -> Tensor:
    """A convolution without bias, the running batch norm and ReLU."""
    parts = (w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(conv(w, f"{name}.conv", x), *parts, eps=BATCH_NORM_EPS))


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Normalise over the channels of (N, C, H, W)."""
    centred = x - x.mean(1, keepdim=True)
    normal = centred / (centred.pow(2).mean(1, keepdim=True) + LAYER_NORM_EPS).sqrt()
    scale, shift = (w[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return normal * scale + shift


def block(w: Weights, name: str, x: Tensor) -> Tensor:
    """x + gamma * MLP(LN(7x7 depthwise)): (N, C, H, W) -> (N, C, H, W)."""
    y = conv(w, f"{name}.dwconv", x, padding=3, groups=x.shape[1])
    y = layer_norm(w, f"{name}.norm", y).movedim(1, -1)  # NCHW -> NHWC
    y = F.linear(y, w[f"{name}.pwconv1.weight"], w[f"{name}.pwconv1.bias"])  # C -> 4C
    y = F.linear(F.gelu(y), w[f"{name}.pwconv2.weight"], w[f"{name}.pwconv2.bias"])  # 4C -> C
    return x + (y * w[f"{name}.gamma"]).movedim(-1, 1)


def convnext(w: Weights, image: Tensor) -> list[Tensor]:
    """(N, 3, H, W) -> four normalised levels, at strides 4, 8, 16 and 32."""
    x, levels = image, []
    for stage in range(4):
        down = f"backbone.downsample_layers.{stage}"
        if stage == 0:  # the stem: 4x4 patches, then the norm
            x = layer_norm(w, f"{down}.1", conv(w, f"{down}.0", x, stride=4))
        else:
            x = conv(w, f"{down}.1", layer_norm(w, f"{down}.0", x), stride=2)
        for i in count():
            if f"backbone.stages.{stage}.{i}.gamma" not in w:
                break
            x = block(w, f"backbone.stages.{stage}.{i}", x)
        levels.append(layer_norm(w, f"backbone.norm{stage}", x))
    return levels


def fpn(w: Weights, levels: list[Tensor]) -> list[Tensor]:
    """Four levels -> five of 256 channels; the fifth takes every second pixel of the fourth."""
    merged = [conv(w, f"neck.lateral_convs.{i}.conv", level) for i, level in enumerate(levels)]
    for i in reversed(range(len(merged) - 1)):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], merged[i].shape[2:], mode="nearest")
    out = [conv(w, f"neck.fpn_convs.{i}.conv", x) for i, x in enumerate(merged)]
    return [*out, F.max_pool2d(out[-1], kernel_size=1, stride=2)]


def rpn(w: Weights, level: Tensor) -> tuple[Tensor, Tensor]:
    """One level -> objectness (N, 3, H, W) and box deltas (N, 12, H, W) of its anchors."""
    x = F.relu(conv(w, "rpn_head.rpn_conv", level))
    return conv(w, "rpn_head.rpn_cls", x), conv(w, "rpn_head.rpn_reg", x)


def resize(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """Bilinear; pixels are areas, not points."""
    return F.interpolate(x, hw, mode="bilinear", align_corners=False)


def upernet(w: Weights, levels: list[Tensor]) -> Tensor:
    """Four levels -> logits (N, 150, H / 4, W / 4)."""
    head, top = "decode_head", levels[-1]
    pooled = (
        conv_norm_relu(w, f"{head}.psp_modules.{i}.1", F.adaptive_avg_pool2d(top, side))
        for i, side in enumerate(POOLED_SIDES)
    )
    context = cat([top, *(resize(x, top.shape[2:]) for x in pooled)], 1)
    merged = [conv_norm_relu(w, f"{head}.lateral_convs.{i}", level) for i, level in enumerate(levels[:-1])]
    merged.append(conv_norm_relu(w, f"{head}.bottleneck", context))
    for i in reversed(range(len(merged) - 1)):
        merged[i] = merged[i] + resize(merged[i + 1], merged[i].shape[2:])
    smooth = [conv_norm_relu(w, f"{head}.fpn_convs.{i}", x) for i, x in enumerate(merged[:-1])]
    fused = cat([resize(x, merged[0].shape[2:]) for x in (*smooth, merged[-1])], 1)
    return conv(w, f"{head}.conv_seg", conv_norm_relu(w, f"{head}.fpn_bottleneck", fused))


def detector_outputs(w: Weights, images: Tensor) -> dict[str, Tensor]:
    """``level0`` ..., ``objectness0`` ... and ``deltas0`` ... of a two-stage detector."""
    levels = fpn(w, convnext(w, images))
    outputs = {f"level{i}": level for i, level in enumerate(levels)}
    for i, level in enumerate(levels):
        outputs[f"objectness{i}"], outputs[f"deltas{i}"] = rpn(w, level)
    return outputs


def segmentor_outputs(w: Weights, images: Tensor, original_hw: tuple[int, int]) -> dict[str, Tensor]:
    """``level0`` ... of all images, and ``whole``: the logits of the first image at its original size."""
    levels = convnext(w, images)
    logits = resize(upernet(w, [level[:1] for level in levels]), tuple(images.shape[2:]))
    return {f"level{i}": level for i, level in enumerate(levels)} | {"whole": resize(logits, original_hw)}
