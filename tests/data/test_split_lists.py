"""Names of a list as mmseg reads them, and why a file may be missing."""

import pytest

from convnext_dense.data.split_lists import pair_files, read_names
from convnext_dense.errors import DataError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(tmp_path, names, images, maps=("b.png",)):
    folders = make(tmp_path / "images", *images), make(tmp_path / "maps", *maps)
    return pair_files(folders, (".jpg", ".png"), names, "val.txt")


def test_a_line_is_a_name(tmp_path):
    path = tmp_path / "val.txt"
    path.write_bytes(b"\xef\xbb\xbfimg 1\r\n  sub/img 2 \r\n\r\n\xc3\xa9\x0bx")
    assert read_names(path) == ["img 1", "sub/img 2", "\u00e9\x0bx"]
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no names"):
        read_names(path)


def test_names_with_spaces_and_of_other_folders_are_found(tmp_path):
    files = found(tmp_path, ["img 1", "../more/img 2"], ["img 1.jpg", "../more/img 2.jpg"], ["img 1.png"])
    assert list(files.images) == ["img 1", "../more/img 2"]
    assert list(files.maps) == ["img 1"]
    (alone,) = files.problems
    assert alone.what == "images without a label map"
    assert alone.droppable


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("a", "a.JPG", "there is a.JPG, and the data set reads names that end in .jpg"),
        ("a.jpg", "a.jpg", "the list must name a: .jpg is added to every name"),
        ("a a", "a.jpg", "a line holds one name and nothing else"),
        ("a", "c.jpg", ""),
    ],
)
def test_why_a_name_has_no_file(tmp_path, name, file, said):
    (problem,) = found(tmp_path, [name], [file]).problems
    assert (problem.count, problem.detail) == (1, said)
    assert not problem.droppable, "none is there"
    problem = found(tmp_path, [name, "b"], ["b.jpg"]).problems[0]
    assert (problem.count, problem.droppable) == (1, True)


def test_maps_whose_names_go_on_after_those_of_the_images_say_how_to_pair_them(tmp_path):
    for folder, names in (("img", ("a.png", "ab.png")), ("map", ("a_gt.png", "ab_gt.png"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    problems = pair_files((tmp_path / "img", tmp_path / "map"), (".png", ".png"), None, "x").problems
    (orphans,) = [p for p in problems if p.what == "label maps without an image"]
    assert (orphans.detail, orphans.remedy) == ("there is a.png", "set seg_map_suffix='_gt.png'")
    again = pair_files((tmp_path / "img", tmp_path / "map"), (".png", "_gt.png"), None, "x")
    assert again.problems == [] and len(again.maps) == 2


def test_a_map_without_an_image_is_not_taken_for_one_of_a_shorter_number(tmp_path):
    for folder, names in (("img", ("1.png",)), ("map", ("1.png", "10.png"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    (orphan,) = pair_files((tmp_path / "img", tmp_path / "map"), (".png", ".png"), None, "x").problems
    assert (orphan.detail, orphan.remedy) == ("", "")


def test_images_of_another_suffix_are_named(tmp_path):
    (problem,) = found(tmp_path, None, ["b.jpg", "sub/c.JPG"], ["b.png", "sub/c.png"]).problems
    assert problem.what == "label maps without an image"
    assert "there is c.JPG, and the data set reads names that end in .jpg" in str(problem)
    assert "set img_suffix" in problem.remedy
