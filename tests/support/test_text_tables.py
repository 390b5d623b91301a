"""Aligned text: widths by the longest cell, sides by letter, no trailing spaces."""

import pytest
from torch import nn

from convnext_dense.support.modules import unwrapped
from convnext_dense.support.text_tables import aligned

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


def test_a_model_is_found_inside_its_wrappers():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = nn.Linear(1, 1)
    assert unwrapped(model) is model
    assert unwrapped(Wrapper(Wrapper(model))) is model
