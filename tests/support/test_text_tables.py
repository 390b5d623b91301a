"""Tables: aligned text without trailing spaces, and Markdown whose cells cannot break it."""

import pytest
from torch import nn

from convnext_dense.support.modules import unwrapped
from convnext_dense.support.text_tables import aligned, markdown, replace_between

ROWS = [("row", "MACs", ""), ("a longer name", "7", "x"), ("b", "12345", "")]


def test_columns_have_the_width_of_their_longest_cell():
    assert aligned(ROWS, "lr").splitlines() == [
        "row             MACs",
        "a longer name      7  x",
        "b              12345",
    ]
    assert aligned(ROWS).splitlines()[2] == "b              12345"
    assert aligned([("a", "b")], "rl") == "a  b"


def test_rows_of_other_lengths_are_an_error():
    with pytest.raises(ValueError):
        aligned([("a", "b"), ("a",)])


def test_markdown():
    assert markdown(ROWS, "lr").splitlines() == [
        "| row | MACs |  |",
        "| --- | ---: | ---: |",
        "| a longer name | 7 | x |",
        "| b | 12345 |  |",
    ]
    assert markdown([("a", "b"), ("1|2", "|")]) == "| a | b |\n| --- | --- |\n| 1\\|2 | \\| |\n"
    with pytest.raises(ValueError):
        markdown([("a", "b"), ("a",)])


def test_only_what_stands_between_the_comments_is_replaced():
    begin, end = "<!-- x: begin -->", "<!-- x: end -->"
    text = f"before\n{begin}\nold\n{end}\nafter\n"
    assert replace_between(text, begin, end, "new\n") == f"before\n{begin}\nnew\n{end}\nafter\n"
    for broken in ("no comments", f"{begin}\n", f"{begin} {end}"):
        with pytest.raises(ValueError, match="x: begin"):
            replace_between(broken, begin, end, "new\n")


def test_a_model_is_found_inside_its_wrappers():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = nn.Linear(1, 1)
    assert unwrapped(model) is model
    assert unwrapped(Wrapper(Wrapper(model))) is model
