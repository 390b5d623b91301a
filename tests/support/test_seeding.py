"""Random numbers that follow from a key alone."""

import random

import numpy as np
import torch

from convnext_dense.support.seeding import SAMPLE, STEP, seed_all


def draw(*key: int) -> tuple:
    seed_all(*key)
    return random.random(), np.random.rand(), torch.rand(()).item(), torch.randperm(100)[0].item()


def test_a_key_gives_the_same_numbers_whatever_was_drawn_before():
    first = draw(3, SAMPLE, 7)
    random.random(), np.random.rand(5), torch.rand(9)
    assert draw(3, SAMPLE, 7) == first


def test_different_keys_give_different_numbers_in_every_generator():
    keys = [(s, kind, n) for s in (0, 1, 2**31) for kind in (SAMPLE, STEP) for n in (0, 1, 2**40)]
    for numbers in list(zip(*(draw(*key) for key in keys), strict=True))[:3]:
        assert len(set(numbers)) == len(keys)


def test_neighbouring_keys_are_not_correlated():
    """The first numbers of 2000 consecutive seeds are uniform and unrelated; poor mixing would show here."""
    numbers = np.array([draw(0, SAMPLE, n)[:3] for n in range(2000)])
    assert np.abs(numbers.mean(0) - 0.5).max() < 4 * np.sqrt(1 / 12 / 2000)
    assert np.abs(np.corrcoef(np.hstack([numbers[1:], numbers[:-1]]).T) - np.eye(6)).max() < 4 / np.sqrt(2000)
