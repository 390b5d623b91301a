"""Which CPU cores others use, and what that means for threads."""

import pytest
import torch

from convnext_dense.support import system
from convnext_dense.support.system import core_ticks, crowded_line, thread_advice

STAT = """cpu  400 0 200 1500 40 0 10 0 0 0
cpu0 100 10 50 800 20 0 5 0 90 0
cpu1 300 0 150 500 20 0 5 0 0 0
cpu10 1 1 1 1 1 1 1 1 1 1
intr 12345 6 7
"""


@pytest.mark.parametrize(
    ("cores", "expected"),
    [({0}, (165, 985)), ({1}, (455, 975)), ({0, 1}, (620, 1960)), ({10}, (6, 8)), ({7}, (0, 0))],
)
def test_ticks_of_some_cores(cores, expected):
    assert core_ticks(STAT, cores) == expected


@pytest.mark.parametrize(
    ("threads", "cores", "busy", "number"),
    [
        (2, 2, 0.1, None),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (1, 2, 2.0, None),
        (8, 8, 3.1, 5),
        (4, 8, 3.1, None),
        (8, 8, 0.6, 7),
        (2, 2, None, None),
    ],
)
def test_advice_names_the_number_of_threads(threads, cores, busy, number):
    line = thread_advice(threads, cores, busy)
    assert line is None if number is None else line.endswith(f"OMP_NUM_THREADS={number} sets their number")


def test_a_number_that_the_user_set_wins(monkeypatch):
    monkeypatch.setattr(system, "busy_cores", lambda: 64.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert crowded_line() is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "other processes use 64.0 of" in crowded_line()
