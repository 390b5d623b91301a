"""Samples and random numbers of a step, wherever the run starts."""

import itertools

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from convnext_dense.mm.datasets.resumable_loader import StepLoader


class Draws(Dataset):
    """Each sample is its index and a random number."""

    def __init__(self, length: int = 10) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, np.random.rand()


def loader(
    sampler="finite", rank=0, world=1, batch=2, accumulate=1, workers=0, length=10, seed=0
) -> StepLoader:
    data = Draws(length)
    kind = {"finite": DefaultSampler, "endless": InfiniteSampler}[sampler]
    samples = kind(data, shuffle=True, seed=seed)
    # the samplers ask the process group when they are built
    samples.rank, samples.world_size = rank, world
    if sampler == "finite":
        samples.num_samples = -(-length // world)
        samples.total_size = samples.num_samples * world
    batches = BatchSampler(samples, batch, drop_last=False)
    plain = DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=list)
    return StepLoader(plain, accumulate, seed, rank, world)


def flat(steps) -> list[tuple[int, float]]:
    return [sample for step in steps for batch in step for sample in batch]


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_at_any_step(first, workers):
    whole = list(loader(accumulate=2).epoch(4))
    assert [len(step) for step in whole] == [2, 2, 1] and len(loader(accumulate=2)) == 3
    assert sorted(index for index, _ in flat(whole)) == list(range(10))
    assert list(loader(accumulate=2, workers=workers).epoch(4, first)) == whole[first:]


@pytest.mark.parametrize("sampler", ["finite", "endless"])
@pytest.mark.parametrize("first", [0, 2, 13])
def test_a_run_without_epochs_resumes_at_any_step(sampler, first):
    whole = list(itertools.islice(loader(sampler, accumulate=2).endless(), 20))
    found = loader(sampler, accumulate=2).endless(first)
    assert list(itertools.islice(found, 20 - first)) == whole[first:]
    assert len({number for _, number in flat(whole)}) == len(flat(whole))  # never the same draw again


def test_epochs_and_seeds_differ():
    epochs = [flat(loader().epoch(number)) for number in range(3)]
    assert len({tuple(i for i, _ in epoch) for epoch in epochs}) == 3
    assert len({number for epoch in epochs for _, number in epoch}) == 30
    assert flat(loader(seed=1).epoch(0)) != epochs[0]


@pytest.mark.parametrize("sampler", ["finite", "endless"])
def test_a_step_sees_the_same_samples_on_any_number_of_ranks(sampler):
    """4 images per step: one rank with 2 batches of 2, two ranks with a batch of 2, four with one of 1."""

    def step(number, world, batch, accumulate):
        ranks = [loader(sampler, rank, world, batch, accumulate, length=12) for rank in range(world)]
        return sorted(flat(next(iter_at(one, number)) for one in ranks))

    def iter_at(one, number):
        return one.endless(number)

    for number in (0, 1, 5):
        expected = step(number, 1, 2, 2)
        assert step(number, 2, 2, 1) == expected
        assert step(number, 4, 1, 1) == expected


def test_a_loader_has_what_mmengine_reads():
    steps = loader()
    assert steps.dataset.length == 10 and steps.num_workers == 0 and len(steps.dataset) == 10
    assert isinstance(steps.batch_sampler.sampler, DefaultSampler) and steps.batch_sampler.batch_size == 2
    assert not hasattr(steps.dataset, "__getitems__")


def test_a_set_without_a_whole_batch_is_refused():
    data = Draws(1)
    batches = BatchSampler(DefaultSampler(data), 2, drop_last=True)
    with pytest.raises(ValueError, match=r"lower train_dataloader\.batch_size"):
        next(StepLoader(DataLoader(data, batch_sampler=batches)).endless())
