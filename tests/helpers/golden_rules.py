"""Rules of the golden whole models: how weights, images and annotations follow from names and seeds.

The released code was run on the same numbers, so a value that it computed can be compared with ours digit by
digit. Numbers come from ``numpy.random.RandomState``, whose stream numpy keeps frozen.
"""

import hashlib
import math
import re
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

SEED = 7  # of torch, right before the forward pass of training: proposals are sampled at random
CANVAS_HW = (128, 160)  # the padded batch
IMAGES_HW = ((120, 150), (128, 131))  # the two images without their padding
# Per image: x1, y1, x2, y2 in pixels, and the class.
OBJECTS = (
    (
        (5.25, 8.5, 60.75, 50.0, 0),
        (40.0, 30.5, 110.25, 118.75, 79),
        (90.5, 10.0, 140.0, 40.25, 17),
        (12.0, 70.0, 30.5, 110.0, 0),
    ),
    (
        (10.0, 12.25, 100.5, 120.0, 56),
        (60.25, 20.0, 128.0, 64.5, 2),
        (3.5, 80.0, 40.0, 126.5, 41),
    ),
)
CLASSES, NO_LABEL, BLOCK = 150, 255, 8  # of the label maps: classes, "no label", pixels of a block's side

# Cascade averages the class logits of three stages. A larger weight lifts some scores over the threshold.
_CASCADE_CLASSES = re.compile(r"bbox_head\.\d\.fc_cls\.weight$")


def stream(name: str) -> np.random.RandomState:
    """The random numbers that belong to a name."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float64 value of the parameter or buffer ``name`` of a whole model."""
    shape = tuple(shape)
    normal = stream(name).standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(normal)
    elif len(shape) > 1 and not name.endswith("running_mean"):
        value = (6 if _CASCADE_CLASSES.search(name) else 1) * normal / math.sqrt(math.prod(shape[1:]))
    else:
        centres = {"gamma": 0.5, "weight": 1.0}
        value = centres.get(name.rpartition(".")[2], 0.0) + 0.1 * normal
    return torch.from_numpy(np.asarray(value))


def fill(model: nn.Module) -> nn.Module:
    """Give every floating-point entry of the state dict the value of its name; dtypes stay."""
    for name, tensor in model.state_dict().items():  # these share memory with the model
        if tensor.is_floating_point():
            tensor.copy_(weight(name, tensor.shape))
    return model


def images() -> Tensor:
    """(2, 3, H, W) normalised images, as they reach the backbone."""
    return torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, *CANVAS_HW)))


def padded_images() -> Tensor:
    """The same images of the sizes ``IMAGES_HW``, padded with zeros: (2, 3, H, W)."""
    inside = torch.zeros(len(IMAGES_HW), 1, *CANVAS_HW, dtype=torch.float64)
    for mask, (h, w) in zip(inside, IMAGES_HW, strict=True):
        mask[:, :h, :w] = 1
    return images() * inside


def objects(index: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Boxes (n, 4) in float32, classes (n,) and masks (n, H, W) in uint8 of an image.

    A mask is the ellipse that fills its box: the pixels whose centres lie inside.
    """
    table = np.array(OBJECTS[index])
    corners, classes = table[:, :4], table[:, 4].astype(np.int64)
    centres = (corners[:, :2] + corners[:, 2:]) / 2  # (n, 2) as x, y
    radii = (corners[:, 2:] - corners[:, :2]) / 2
    height, width = CANVAS_HW
    x = (np.arange(width) + 0.5 - centres[:, :1]) / radii[:, :1]  # (n, W)
    y = (np.arange(height) + 0.5 - centres[:, 1:]) / radii[:, 1:]  # (n, H)
    masks = x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1
    return torch.from_numpy(corners).float(), torch.from_numpy(classes), masks.astype(np.uint8)


def label_maps() -> Tensor:
    """(2, H, W) classes in blocks of 8 x 8 pixels; about a tenth of the blocks has no label."""
    random = np.random.RandomState(2)
    blocks = random.randint(0, CLASSES, size=(2, CANVAS_HW[0] // BLOCK, CANVAS_HW[1] // BLOCK))
    blocks = np.where(random.rand(*blocks.shape) < 0.1, NO_LABEL, blocks)
    return torch.from_numpy(blocks).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)


def chosen(names: Iterable[str], count: int) -> list[str]:
    """The ``count`` names with the smallest SHA-1."""
    digests = {hashlib.sha1(name.encode()).hexdigest(): name for name in names}
    return [digests[digest] for digest in sorted(digests)[:count]]


def sample(name: str, tensor: Tensor, count: int = 3) -> list[float]:
    """L2 norm of a tensor and ``count`` of its values; the name determines their places."""
    flat = tensor.detach().double().flatten().cpu()
    places = torch.from_numpy(stream(name).randint(0, len(flat), size=count))
    return [flat.norm().item(), *flat[places].tolist()]
