"""Drawings have the colours where they belong, in pictures of any size."""

import numpy as np
import pytest
from onnx_models import CLASSES, PALETTE
from PIL import Image

from convnext_dense.export.drawing import colour_of, draw_detections, draw_labels, font_pixels, line_width
from convnext_dense.export.masks import Mask

GREY = 100


def detections(boxes, scores, labels, masks=None):
    found = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "labels": np.array(labels, np.int64),
    }
    return found if masks is None else {**found, "masks": masks}


def drawn(hw, found):
    picture = np.full((*hw, 3), GREY, np.uint8)
    image = np.asarray(draw_detections(picture, found, CLASSES, PALETTE))
    assert image.shape == picture.shape and (picture == GREY).all(), "the picture itself stays"
    return image


def test_an_outline_a_caption_and_a_translucent_mask():
    mask = Mask((200, 300), 80, 60, np.ones((40, 50), bool))
    image = drawn((200, 300), detections([[50, 60, 150, 160]], [0.8], [1], [mask]))
    assert tuple(image[160, 100]) == PALETTE[1], "the lower edge"
    assert tuple(image[100, 80]) == tuple((np.array(PALETTE[1]) + GREY + 1) // 2), "half of each colour"
    assert (image[140, 130] == GREY).all(), "in the box, not in the mask"
    caption = image[45:60, 50:100].reshape(-1, 3)
    assert (caption == PALETTE[1]).all(1).any(), "its ground has the class's colour"
    assert (caption.min(1) > 170).any(), "its letters are white"
    assert (image[:40] == GREY).all()


def test_the_best_detection_is_on_top():
    boxes = [[20, 60, 120, 160]] * 2
    for scores, top in (([0.9, 0.4], 1), ([0.4, 0.9], 2)):
        assert tuple(drawn((200, 300), detections(boxes, scores, [1, 2]))[160, 70]) == PALETTE[top]


@pytest.mark.parametrize("hw", [(1, 1), (20, 30), (64, 64), (1500, 2000)])
def test_pictures_of_any_size_and_boxes_at_their_edges(hw):
    h, w = hw
    boxes = [[0, 0, w, h], [-5, -5, 3, 3], [w - 2, h - 2, w + 9, h + 9], [w / 2, h / 2, w / 2, h / 2]]
    masks = [Mask(hw, 0, 0, np.zeros((0, 0), bool))] * 4
    image = drawn(hw, detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 1, 2, 7], masks))
    assert (image != GREY).any()
    assert (drawn(hw, detections([], [], [], [])) == GREY).all()


def test_lines_and_letters_grow_with_the_picture():
    assert [line_width(wh) for wh in ((64, 64), (600, 400), (4000, 3000))] == [1, 1, 10]
    assert [font_pixels(wh) for wh in ((64, 64), (640, 480), (4000, 3000))] == [9, 14, 90]


def test_label_maps_are_half_of_the_colour():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    labels = np.random.default_rng(1).integers(0, 3, (6, 8)).astype(np.uint8)
    image = draw_labels(picture, labels, PALETTE)
    assert isinstance(image, Image.Image)
    expected = (picture.astype(int) + np.array(PALETTE)[labels] + 1) // 2
    assert np.abs(np.asarray(image) - expected).max() <= 1


def test_classes_beyond_the_palette_have_colours_of_their_own():
    colours = {colour_of(label, PALETTE) for label in range(40)}
    assert len(colours) == 40 and colour_of(2, PALETTE) == PALETTE[2]
