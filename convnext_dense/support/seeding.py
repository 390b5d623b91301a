"""Random numbers that depend on the position in a run, not on its history.

A run that is killed and resumed must draw the same numbers as an uninterrupted one. Instead of saving the
state of every generator in every process, ours restart from a key before each sample and before each step,
so there is nothing to save, and neither the number of workers nor what they had prefetched matters.
"""

import random

import numpy as np
import torch

SAMPLE, STEP = 0, 1
"""First number of a key after the seed: the purpose of the random numbers."""


def seed_all(*key: int) -> None:
    """Start the generators of ``random``, numpy and torch (every device) from ``key``.

    Args:
        key: non-negative integers; each tuple of them gives numbers independent of every other tuple's.
    """
    words = np.random.SeedSequence(key).generate_state(6)  # uint32
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:4])
    torch.manual_seed(int(words[4]) << 31 | int(words[5]) >> 1)  # torch takes 63 bits without a sign
