"""The demo's scenes: reproducible, true to their annotations, and written completely or not at all."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from convnext_dense.data import synthetic
from convnext_dense.data.synthetic import CLASSES, draw_scene, make_shapes

COUNTS = {"train": 4, "val": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, **COUNTS, size=96, seed=3)
    return root


@pytest.fixture(scope="module")
def many() -> list[synthetic.Scene]:
    return [draw_scene(160, 0, "train", index) for index in range(100)]


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------- scenes


def test_a_scene_depends_on_seed_split_and_index_only():
    first, again = draw_scene(96, 0, "val", 5), draw_scene(96, 0, "val", 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    for other in (draw_scene(96, 1, "val", 5), draw_scene(96, 0, "train", 5), draw_scene(96, 0, "val", 6)):
        assert not np.array_equal(first.image, other.image)


def test_masks_are_disjoint_and_the_label_map_is_their_union(many):
    for scene in many:
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        assert len(scene.labels) == len(scene.masks) >= 1
        assert scene.masks.sum(axis=0).max() == 1
        assert np.array_equal(scene.label_map > 1, scene.masks.any(axis=0))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert (scene.label_map[mask] == label + 2).all()


def test_every_drawn_shape_shows_enough_of_itself(many):
    """The smallest, a triangle of radius 14 of which half shows, still has about 120 pixels."""
    assert min(mask.sum() for scene in many for mask in scene.masks) >= 60


def test_scenes_have_several_scales_overlaps_and_holes(many):
    areas = np.array([mask.sum() for scene in many for mask in scene.masks])
    assert np.percentile(areas, 95) / np.percentile(areas, 5) > 6
    touching = 0
    for scene in many:
        grown = [cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) for mask in scene.masks]
        touching += bool((np.sum(grown, axis=0) > 1).any())
    assert touching > 50  # of 100 scenes


def test_all_classes_are_equally_frequent(many):
    counts = np.bincount(np.concatenate([scene.labels for scene in many]), minlength=len(CLASSES))
    assert counts.min() > 0.7 * counts.mean()


def test_colour_does_not_reveal_the_class(many):
    """The best guess from the mean colour (the five nearest of the others) is little better than chance."""
    labels = np.concatenate([scene.labels for scene in many])
    colours = np.stack([scene.image[mask].mean(axis=0) for scene in many for mask in scene.masks])
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e9 * np.eye(len(labels))
    neighbours = labels[np.argsort(distance, axis=1)[:, :5]]
    guess = np.array([np.bincount(row, minlength=len(CLASSES)).argmax() for row in neighbours])
    assert (guess == labels).mean() < 1.5 / len(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_outlines_lie_in_the_unit_circle(name):
    radius = np.linalg.norm(synthetic.outline(name), axis=1)
    assert 0.98 < radius.max() < 1.01


def test_coverage_of_a_square_is_its_area():
    square = np.array([(2, 3), (7.5, 3), (7.5, 8.25), (2, 8.25)])
    cover = synthetic._coverage(square, 12)
    assert cover[4, 4] == 1 and cover[1, 1] == 0
    assert cover.sum() == pytest.approx(5.5 * 5.25, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic.outline("ring"), "ring.*circle"),
        (lambda: draw_scene(96, 0, "test", 0), "test.*train"),
        (lambda: make_shapes("unused", train=0), "train=0"),
        (lambda: make_shapes("unused", size=16), "size=16.*64"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------------ folders


def test_two_runs_write_the_same_bytes(root, tmp_path):
    make_shapes(tmp_path / "again", **COUNTS, size=96, seed=3)
    assert digest(tmp_path / "again") == digest(root)


def test_images_do_not_depend_on_how_many_there_are(root, tmp_path):
    make_shapes(tmp_path / "fewer", train=2, val=1, size=96, seed=3)
    whole, fewer = digest(root), digest(tmp_path / "fewer")
    images = [name for name in fewer if name.endswith((".jpg", ".png"))]
    assert len(images) == 3 * (2 + 1)
    assert all(fewer[name] == whole[name] for name in images)


@pytest.mark.parametrize("split", COUNTS)
def test_coco_tools_read_it_and_both_layouts_agree(root, split):
    coco_split, ade_split = synthetic.SPLITS[split]
    coco_module = pytest.importorskip("pycocotools.coco")
    coco = coco_module.COCO(str(root / "coco" / "annotations" / f"instances_{coco_split}.json"))
    assert len(coco.imgs) == COUNTS[split]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.imgs.values():
        label_map = np.ones((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            label_map[mask] = annotation["category_id"] + 1
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert mask[y : y + height, [x, x + width - 1]].any(axis=0).all()
            assert mask[[y, y + height - 1], x : x + width].any(axis=1).all()
            assert annotation["iscrowd"] == 0
        stem = Path(image["file_name"]).stem
        written = cv2.imread(
            str(root / "ade20k/annotations" / ade_split / f"{stem}.png"), cv2.IMREAD_UNCHANGED
        )
        assert np.array_equal(written, label_map)
        jpegs = root / "coco" / coco_split / f"{stem}.jpg", root / "ade20k/images" / ade_split / f"{stem}.jpg"
        assert jpegs[0].read_bytes() == jpegs[1].read_bytes()


def test_a_finished_folder_is_reused(root, monkeypatch):
    monkeypatch.setattr(synthetic, "draw_scene", lambda *args: pytest.fail("drawn again"))
    assert make_shapes(root, **COUNTS, size=96, seed=3).size == 96


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, failure):
    def stop_at_the_third(size, seed, split, index):
        if index == 2:
            raise failure
        return draw_scene(size, seed, split, index)

    monkeypatch.setattr(synthetic, "draw_scene", stop_at_the_third)
    with pytest.raises(failure):
        make_shapes(tmp_path / "shapes", **COUNTS, size=96)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_was_faster_is_fine(root, tmp_path, monkeypatch):
    target = tmp_path / "shapes"
    write_split = synthetic._write_split

    def lose_the_race(partial, split, scenes):
        write_split(partial, split, scenes)
        if split == "val":
            monkeypatch.setattr(synthetic, "_write_split", write_split)
            make_shapes(target, **COUNTS, size=96, seed=3)

    monkeypatch.setattr(synthetic, "_write_split", lose_the_race)
    make_shapes(target, **COUNTS, size=96, seed=3)
    assert digest(target) == digest(root)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no finished shapes"):
        make_shapes(tmp_path, **COUNTS, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_shapes_of_another_spec_are_refused(root):
    with pytest.raises(FileExistsError, match=r"'seed': 3.*'seed': 4"):
        make_shapes(root, **COUNTS, size=96, seed=4)


def test_the_marker_states_the_spec(root):
    marker = json.loads((root / synthetic.MARKER).read_text())
    assert marker == {"train": 4, "val": 3, "size": 96, "seed": 3, "version": synthetic._VERSION}
