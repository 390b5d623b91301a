"""Small faulty data sets: each fault is found, counted, and its first file named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_dense.data.check import (
    ClassNamesError,
    PairCheck,
    Problem,
    check_folder,
    check_pairs,
    common_suffix,
    find_files,
    parse_classes,
    wrong_values,
)
from convnext_dense.data.coco_check import check_coco, read_categories, select_categories


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(width: int, height: int, value: int = 0) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


@pytest.mark.parametrize(
    ("text", "content", "expected"),
    [
        ("sky,road", None, ("sky", "road")),
        (" sky , traffic light ", None, ("sky", "traffic light")),
        ("c.json", ["sky", "road"], ("sky", "road")),
        ("c.json", {"classes": ["sky", "road"]}, ("sky", "road")),
    ],
)
def test_class_names(tmp_path, monkeypatch, text, content, expected):
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text(json.dumps(content))
    assert parse_classes(text) == expected


@pytest.mark.parametrize(
    ("text", "content", "message"),
    [
        ("absent.json", "", "cannot read class names from absent.json"),
        ("c.json", "[1, 2", "cannot read class names from c.json"),
        ("c.json", '{"names": []}', "no class names in c.json; expected a list"),
        ("c.json", '["sky", 3]', "every class needs a name"),
        ("c.json", "[]", "every class needs a name"),
        ("sky,,road", "", "every class needs a name"),
        ("sky,road,sky", "", "'sky' is there more than once"),
    ],
)
def test_bad_class_names(tmp_path, monkeypatch, text, content, message):
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text(content)
    with pytest.raises(ClassNamesError, match=message):
        parse_classes(text)


@pytest.mark.parametrize(
    ("values", "ignore", "reduce", "wrong"),
    [
        ([0, 1, 2, 255], 255, False, []),
        ([0, 3, 9], 255, False, [3, 9]),
        ([0, 3], 3, False, []),
        ([0, 255], 3, False, [255]),  # once another value is ignored, 255 is not
        ([0, 1, 3, 255], 255, True, []),  # 0 is unlabelled, the classes are 1 to 3
        ([4], 255, True, [4]),
        ([-1, 256], 255, False, [-1, 256]),
    ],
)
def test_values_of_three_classes(values, ignore, reduce, wrong):
    assert wrong_values(values, 3, ignore, reduce) == wrong


def test_files_pair_by_their_names(tmp_path):
    for name in (
        "images/b.jpg",
        "images/town/a.jpg",
        "images/c.jpg",
        "images/.hidden.jpg",
        "images/note.txt",
    ):
        save(tmp_path / name.replace("txt", "jpg"), grey(4, 4)).rename(tmp_path / name)
    for name in ("maps/b.png", "maps/town/a.png", "maps/z.png"):
        save(tmp_path / name, grey(4, 4))
    images, maps = find_files(tmp_path / "images", ".jpg"), find_files(tmp_path / "maps", ".png")
    assert list(images) == ["b", "c", "town/a"]
    assert check_pairs(images, maps) == [
        Problem("images without a label map", str(tmp_path / "images/c.jpg"), 1, droppable=True),
        Problem("label maps without an image", str(tmp_path / "maps/z.png"), 1),
    ]
    assert check_pairs({"a": Path("a.jpg")}, {"a": Path("a.png")}) == []


def test_an_empty_folder_and_one_with_other_files(tmp_path):
    (problem,) = check_folder(tmp_path, find_files(tmp_path, ".jpg"), ".jpg")
    assert str(problem) == f"folder without any *.jpg: 1, first {tmp_path} (it is empty)"
    save(tmp_path / "a.png", grey(4, 4))
    (problem,) = check_folder(tmp_path, find_files(tmp_path, ".jpg"), ".jpg")
    assert f"1 other files, such as {tmp_path}/a.png" in problem.detail
    assert check_folder(tmp_path, find_files(tmp_path, ".png"), ".png") == []
    assert common_suffix(tmp_path) == ".png"
    save(tmp_path / "b.jpg", grey(4, 4))
    assert common_suffix(tmp_path) is None


def turned(folder: Path) -> Path:
    """An image that is stored at 8x5 and shown at 5x8."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(folder / "turned.jpg", grey(8, 5), exif=exif)


def test_an_image_that_exif_turns_fits_maps_and_annotations_of_both_sizes(tmp_path):
    """Training reads it as it is stored where only that fits."""
    check, image = PairCheck(3), turned(tmp_path)
    for width, height in ((8, 5), (5, 8), (8, 8)):
        check.add(image, save(tmp_path / f"{width}{height}.png", grey(width, height)))
    (problem,) = check.problems()
    assert (problem.first, problem.detail) == (str(tmp_path / "88.png"), "8x8, its image 5x8")
    entries = [
        {"id": i, "file_name": "turned.jpg", "width": width, "height": height}
        for i, (width, height) in enumerate([(8, 5), (5, 8), (8, 8)])
    ]
    path = coco(tmp_path, images=entries, annotations=[])
    (problem,) = check_coco(path, tmp_path)
    assert (problem.count, problem.detail) == (1, "5x8, the annotation file says 8x8")


def test_pairs_are_judged_and_counted(tmp_path):
    image = save(tmp_path / "image.jpg", grey(8, 5))
    check = PairCheck(3)
    check.add(image, save(tmp_path / "good.png", grey(8, 5, 255)))
    assert check.problems() == []
    for name, value in (("y.png", 7), ("x.png", 3)):  # the first by name leads, whatever came first
        check.add(image, save(tmp_path / name, grey(8, 5, value)))
    check.add(image, save(tmp_path / "turned.png", grey(5, 8)))
    check.add(image, save(tmp_path / "colour.png", np.zeros((5, 8, 3), np.uint8)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    check.add(image, tmp_path / "broken.png")
    unreadable, colour, size, values = check.problems()
    assert (unreadable.first, unreadable.count) == (str(tmp_path / "broken.png"), 1)
    assert (colour.first, colour.detail) == (str(tmp_path / "colour.png"), "it has 3")
    assert (size.first, size.detail) == (str(tmp_path / "turned.png"), "5x8, its image 8x5")
    assert (values.first, values.count, values.detail) == (str(tmp_path / "x.png"), 2, "3")
    assert values.remedy == "3 classes have the values 0 to 2, 255 means unlabelled"


def test_values_of_sixteen_bits_and_palettes_are_the_stored_ones(tmp_path):
    image = save(tmp_path / "image.png", grey(4, 4))
    check = PairCheck(3)
    check.add(image, save(tmp_path / "deep.png", np.full((4, 4), 256, np.uint16)))  # 0 in eight bits
    coloured = Image.fromarray(grey(4, 4, 2), mode="P")
    coloured.putpalette([200] * 768)
    coloured.save(tmp_path / "palette.png")
    check.add(image, tmp_path / "palette.png")
    (problem,) = check.problems()
    assert (problem.first, problem.detail) == (str(tmp_path / "deep.png"), "256")


CATEGORIES = [{"id": 7, "name": "nut"}, {"id": 3, "name": "bolt"}]


def coco(folder: Path, **changes) -> Path:
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 5} for i in (1, 2, 3)],
        "annotations": [box(10 + i, image_id=i) for i in (1, 2, 3)],
        "categories": CATEGORIES,
        **changes,
    }
    for i in (1, 2, 3):
        save(folder / f"{i}.png", grey(8, 5))
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("order", [("categories", "annotations"), ("annotations", "categories")])
def test_categories_are_found_wherever_they_stand(tmp_path, order):
    parts = {"categories": CATEGORIES, "annotations": [{"note": 'the "categories" of this'}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({key: parts[key] for key in order}, indent=2))
    assert read_categories(path) == CATEGORIES


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"categories": []}', '{"categories": [{"id": 1}]}', "{"])
def test_a_file_without_categories_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ClassNamesError, match=r"a\.json"):
        read_categories(path)


def test_classes_come_in_the_order_of_the_file():
    names = ["nut", "bolt", "gear"]
    assert select_categories(names, None, "f") == ("nut", "bolt", "gear")
    assert select_categories(names, ["gear", "nut"], "f") == ("nut", "gear")
    with pytest.raises(ClassNamesError, match=r"f has no category 'cog' \(1 of 2 .* it has nut, bolt, gear"):
        select_categories(names, ["nut", "cog"], "f")
    with pytest.raises(ClassNamesError, match="'nut' more than once"):
        select_categories(["nut", "nut"], None, "f")


def test_a_sound_annotation_file_has_no_problems(tmp_path):
    assert check_coco(coco(tmp_path), tmp_path) == []


def box(number: int | None, image_id: int = 1, category_id: int = 7) -> dict:
    known = {} if number is None else {"id": number}
    return {**known, "image_id": image_id, "category_id": category_id, "bbox": [1, 1, 3, 3], "area": 9}


def test_faults_of_an_annotation_file_and_its_images(tmp_path):
    sizes = [(1, 8, 5), (2, 5, 8), (9, 8, 5), (4, 8, 5)]
    path = coco(
        tmp_path,
        images=[{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, w, h in sizes],
        annotations=[box(1), box(20, category_id=0), box(19, category_id=1), box(18, image_id=5)],
    )
    missing, size, image, category = check_coco(path, tmp_path)
    assert (missing.first, missing.count) == (str(tmp_path / "9.png"), 2)
    assert (size.first, size.detail) == (str(tmp_path / "2.png"), "8x5, the annotation file says 5x8")
    assert (category.what, category.count) == (f"annotations without a known category in {path}", 2)
    assert category.first == "annotation 20 (image 1, 1.png)"
    assert (image.what, image.first) == (
        f"annotations of an unknown image in {path}",
        "annotation 18 (image 5)",
    )
    assert [p.annotation for p in (missing, size, image, category)] == [False, False, True, True]
    assert image.harmless_in_evaluation and category.harmless_in_evaluation
    assert not missing.harmless_in_evaluation and not size.harmless_in_evaluation


def test_annotations_without_ids_and_images_without_names_are_counted_one_by_one(tmp_path):
    images = [{"id": 1, "file_name": "1.png", "width": 8, "height": 5}]
    unnamed = [{"id": 2, "file_name": None, "width": 8, "height": 5}, {"id": 3, "width": 8, "height": 5}]
    loose = [box(None, category_id=9)] * 3
    path = coco(tmp_path, images=[*images, *unnamed], annotations=[box(1), *loose])
    found = {problem.what: problem.count for problem in check_coco(path, tmp_path)}
    assert found == {
        f"images without an id or a file name in {path}": 2,
        f"annotations without a known category in {path}": 3,
    }


@pytest.mark.parametrize("content", [{"images": []}, {"images": None}, {"images": [], "annotations": []}])
def test_a_file_without_images_cannot_be_used(tmp_path, content):
    (problem,) = check_coco(coco(tmp_path, **content), tmp_path)
    assert problem.what.startswith("annotation file ")
    assert not problem.droppable and not problem.harmless_in_evaluation


def test_images_alone_can_be_predicted(tmp_path):
    assert check_coco(coco(tmp_path, annotations=[]), tmp_path) == []
