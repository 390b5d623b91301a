"""Names of outputs that do not clash."""

import os

import pytest

from convnext_dense.support.files import free_path, output_names


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["photos/a.jpg"], ["a"]),
        (["photos/a.jpg", "photos/b.JPG"], ["a", "b"]),
        (["photos/monday/1.jpg", "photos/tuesday/1.jpg"], ["monday/1", "tuesday/1"]),
        (["photos/1.jpg", "photos/tuesday/1.jpg"], ["1", "tuesday/1"]),
        (["photos/rome/left/1.jpg", "photos/oslo/left/1.jpg"], ["rome/left/1", "oslo/left/1"]),
        (["one/x/1.jpg", "two/x/1.jpg", "one/x/1.jpg"], ["one/x/1", "two/x/1"]),
        (["p/a.jpg", "p/a.png", "p/b.png"], ["a.jpg", "a.png", "b"]),
        (["p/a.jpg", "p/a.png", "p/a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
        (["p/v1.2.jpg", "p/v1.3.jpg"], ["v1.2", "v1.3"]),
        (["p/a.jpg", "p/a_labels.jpg"], ["a.jpg", "a_labels.jpg"]),
        (["p/noending", "p/q"], ["noending", "q"]),
        ([], []),
    ],
)
def test_no_two_outputs_have_one_name(inputs, names):
    found = output_names(inputs, ("", "_labels"))
    assert list(found) == list(dict.fromkeys(os.path.abspath(path) for path in inputs))
    assert list(found.values()) == names
    outputs = [name + ending for name in found.values() for ending in ("", "_labels")]
    assert len(set(outputs)) == len(outputs)


def test_a_free_path_is_numbered(tmp_path):
    path = tmp_path / "predictions"
    assert free_path(path) == path
    path.mkdir()
    (tmp_path / "predictions_2").touch()
    assert free_path(path) == tmp_path / "predictions_3"
