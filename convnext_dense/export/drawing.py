"""Pictures of detections and of label maps, drawn with Pillow."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnext_dense.export.masks import Mask

Colour = tuple[int, int, int]
_OPACITY = 0.5  # of colours over the picture
_GOLDEN = 0.618034  # of a turn: hues of neighbouring classes are far apart


def draw_detections(
    picture: np.ndarray,
    found: Mapping[str, Any],
    classes: Sequence[str],
    palette: Sequence[Colour],
) -> Image.Image:
    """Draw boxes, class names, scores and translucent masks, the best detections on top.

    Args:
        picture: (H, W, 3) uint8, red first.
        found: ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) and perhaps ``masks``, N of them.
        classes: names, by class number.
        palette: colours, by class number.
    """
    pixels = picture.copy()
    order = np.argsort(found["scores"], kind="stable")  # the best one last
    labels = [int(label) for label in found["labels"]]
    for i in order if "masks" in found else ():
        _tint(pixels, found["masks"][i], colour_of(labels[i], palette))
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width, font = line_width(image.size), _font(image.size)
    for i in order:
        colour = colour_of(labels[i], palette)
        x1, y1, x2, y2 = (float(value) for value in found["boxes"][i])
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
        name = classes[labels[i]] if labels[i] < len(classes) else str(labels[i])
        _caption(pen, image.size, (x1, y1), f"{name} {found['scores'][i]:.2f}", colour, font)
    return image


def draw_labels(picture: np.ndarray, labels: np.ndarray, palette: Sequence[Colour]) -> Image.Image:
    """Lay the colours of a label map over its picture.

    Args:
        picture: (H, W, 3) uint8, red first.
        labels: (H, W) class numbers.
        palette: colours, by class number.
    """
    table = np.array([colour_of(label, palette) for label in range(int(labels.max()) + 1)], np.float32)
    table *= _OPACITY
    mixed = picture * np.float32(1 - _OPACITY)
    mixed += table[labels]
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def colour_of(label: int, palette: Sequence[Colour]) -> Colour:
    """The palette's colour of a class, or one of its own hue where the palette is too short."""
    if label < len(palette):
        red, green, blue = palette[label]
        return red, green, blue
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.8, 0.9))
    return red, green, blue


def line_width(wh: tuple[int, int]) -> int:
    """Pixels of a box's outline, for a picture of (width, height): 1 at 300 pixels, 5 at 1500."""
    return max(1, round(min(wh) / 300))


def font_pixels(wh: tuple[int, int]) -> int:
    """Height of letters in a picture of (width, height): 9 in small ones, 24 at 800 pixels."""
    return max(9, round(min(wh) * 0.03))


def _font(wh: tuple[int, int]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that none has to be installed; without FreeType, its bitmap of one size."""
    return ImageFont.load_default(font_pixels(wh))


def _tint(pixels: np.ndarray, mask: Mask, colour: Colour) -> None:
    """Mix ``colour`` into the pixels (H, W, 3) of a mask."""
    rows, columns = mask.pixels.shape
    part = pixels[mask.top : mask.top + rows, mask.left : mask.left + columns]
    mixed = part[mask.pixels] * (1 - _OPACITY) + np.array(colour) * _OPACITY
    part[mask.pixels] = (mixed + 0.5).astype(np.uint8)


def _caption(
    pen: ImageDraw.ImageDraw,
    wh: tuple[int, int],
    corner: tuple[float, float],
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Write a text above a box, or in it where the picture ends, on a ground of the box's colour."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = line_width(wh)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = min(max(corner[0], 0), max(wh[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else max(corner[1], 0)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    pen.text((x + margin - left, y + margin - top), text, fill="white" if dark else "black", font=font)
