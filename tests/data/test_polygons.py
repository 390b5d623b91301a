"""Polygons of masks, rasterised back by COCO's own tools."""

import numpy as np
import pytest

from convnext_dense.data.polygons import mask_polygons
from convnext_dense.data.synthetic import draw_scene


def rasterise(polygons: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    coco_mask = pytest.importorskip("pycocotools.mask")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))).astype(bool)


PICTURES = {
    "pixel": ["#"],
    "row": ["####"],
    "corner": ["#.", ".#"],
    "other corner": [".#", "#."],
    "ring": ["###", "#.#", "###"],
    "ring in ring": ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"],
    "two holes": ["#####", "#.#.#", "#####"],
    "hole at a corner": ["###.", "#.##", "##.#", ".###"],
    "wide hole": ["######", "#....#", "######"],
    "islands": ["#.##", "....", "##.#"],
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("margin", [0, 2])
def test_hand_drawn_masks_come_back_to_the_pixel(picture, margin):
    mask = np.pad(np.array([[char == "#" for char in row] for row in picture]), margin)
    assert np.array_equal(rasterise(mask_polygons(mask), mask.shape), mask)


def test_one_pixel_by_hand():
    mask = np.zeros((4, 5), bool)
    mask[1, 3] = True
    (polygon,) = mask_polygons(mask)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(3, 1), (3, 2), (4, 1), (4, 2)]


def test_straight_runs_have_no_inner_vertices():
    assert [len(polygon) for polygon in mask_polygons(np.ones((7, 9), bool))] == [8]


def test_an_empty_mask_has_no_polygon():
    assert mask_polygons(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_random_masks_come_back_to_the_pixel(density):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((13, 17)) < density
        assert np.array_equal(rasterise(mask_polygons(mask), mask.shape), mask)


def test_occluded_shapes_come_back_to_the_pixel():
    for index in range(30):
        scene = draw_scene(96, seed=1, split="train", index=index)
        for mask in scene.masks:
            assert np.array_equal(rasterise(mask_polygons(mask), mask.shape), mask)
