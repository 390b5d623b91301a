"""The fullest samples of a training set at the largest shape of its pipeline, to measure steps on."""

import copy
import random
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch.utils.data import Dataset

from convnext_dense.mm.datasets.paths import INNER, iter_datasets
from convnext_dense.mm.preflight.shape import (
    Largest,
    UnknownSizeError,
    around,
    is_grouped,
    largest_shape,
    pad,
)
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

DRAWN = 32  # samples drawn where the pipeline does not determine its largest image
LOOK_SECONDS = 5.0  # to find the fullest images
CANDIDATES = 16  # some of them may not load
WARM_SIDE = 128  # pixels; below, some heads have no positions left
WRAPPERS = {"RepeatDataset", "ConcatDataset", "ClassBalancedDataset", "CheckedDataset"}
"""Datasets that pass on the samples of others unchanged."""


class Samples(NamedTuple):
    """Samples that the measured batches are made of.

    Attributes:
        items: samples as the pipeline packs them; they are used in turn.
        largest: padded shapes of the largest image and batch.
        source: a line that says where both come from.
        small: the first item at half of the height and width, if its pipeline allows it.
    """

    items: list[dict]
    largest: Largest
    source: str
    small: dict | None = None

    def batch(self, images: int) -> dict:
        """Return a new batch, because a step writes into it."""
        return pseudo_collate([copy.deepcopy(self.items[i % len(self.items)]) for i in range(images)])

    def warm_up(self, images: int) -> dict:
        """Return a batch for an unmeasured step, a smaller one where possible."""
        return self.batch(images) if self.small is None else self._replace(items=[self.small]).batch(images)


def largest_samples(cfg: Config, loader: Mapping, dataset: Dataset) -> Samples:
    """Return the fullest samples of the training set at the largest shape of its pipeline.

    Instances need memory, so detectors get the images with most of them, stretched to the shape. Where the
    shape does not follow from the config, the largest of some real samples are taken.

    Args:
        cfg: the config as the user wrote it.
        loader: ``train_dataloader`` with the checked transforms.
        dataset: dataset built from it.

    Raises:
        UserError: no usable image.
    """
    batch_size = cfg.train_dataloader.batch_size
    order = random.Random(0).sample(range(len(dataset)), len(dataset))
    try:
        largest = _shape_of_config(cfg, batch_size)
    except UnknownSizeError as error:
        return _drawn(dataset, order, cfg.model.get("data_preprocessor") or {}, batch_size, str(error))
    leaf = next(iter_datasets(loader["dataset"]))
    load = [step for step in leaf["pipeline"] if type_name(step).startswith("Load")]
    pack = [step for step in leaf["pipeline"] if type_name(step).startswith("Pack")]

    def make(index: int, parts: int = 1) -> dict | None:
        scale = tuple(side // parts for side in largest.batch[::-1])
        stretch = dict(type="Resize", scale=scale, keep_ratio=False)
        return Compose([*load, stretch, *pack])(dataset.get_data_info(index))

    fullest, instances, looked = _fullest(dataset, order)
    items: dict[int, dict] = {}
    for index in fullest:
        if len(items) < min(batch_size, 4) and (item := make(index)) is not None:
            items[index] = item
    if not items:
        return _drawn(dataset, order, cfg.model.get("data_preprocessor") or {}, batch_size, "no image loads")
    of = f"all {looked:,}" if looked == len(dataset) else f"{looked:,}"
    full = f"the fullest of {of} images, up to {instances} instances" if instances else "images of the data"
    # segmentors pad to the crop of the recipe anyway
    shrinks = min(largest.batch) >= 2 * WARM_SIDE and "size" not in (cfg.model.get("data_preprocessor") or {})
    small = make(next(iter(items)), 2) if shrinks else None
    return Samples(list(items.values()), largest, f"from the pipeline; {full}", small)


def _shape_of_config(cfg: Config, batch_size: int) -> Largest:
    """The largest shapes of all training sets of ``cfg``.

    Raises:
        UnknownSizeError: they do not follow from it.
    """
    for _, data in mappings(cfg.train_dataloader.dataset, INNER):
        if any(key in data for key in INNER) and type_name(data) not in WRAPPERS:
            raise UnknownSizeError(f"{type_name(data)} makes its own images")
    preprocessor = cfg.model.get("data_preprocessor") or {}
    scope, grouped = cfg.get("default_scope") or "mmengine", is_grouped(cfg.train_dataloader)
    found = [
        largest_shape(data["pipeline"], preprocessor, scope, batch_size, grouped)
        for data in iter_datasets(cfg.train_dataloader.dataset)
        if "pipeline" in data
    ]
    if not found:
        raise UnknownSizeError("no pipeline in the config")
    return max(found, key=lambda largest: largest.batch[0] * largest.batch[1])


def _drawn(
    dataset: Dataset, order: Sequence[int], preprocessor: Mapping, batch_size: int, reason: str
) -> Samples:
    """Return the largest of some samples as training gets them."""
    items = [dataset[index] for index in order[:DRAWN]]
    items.sort(key=lambda item: -item["inputs"].shape[-2] * item["inputs"].shape[-1])
    hws = [tuple(item["inputs"].shape[-2:]) for item in items]
    image, batch = pad(hws[0], preprocessor), pad(around(hws[:batch_size]), preprocessor)
    return Samples(
        items[: min(batch_size, 4)],
        Largest(image, batch),
        f"the largest of {len(items)} samples drawn: {reason}",
    )


def _fullest(dataset: Dataset, order: Sequence[int]) -> tuple[list[int], int, int]:
    """Indices by decreasing number of instances, the highest number, and how many were checked in time."""
    counts, end = {}, time.monotonic() + LOOK_SECONDS
    for index in order:
        instances = dataset.get_data_info(index).get("instances")
        if instances is None:
            return list(order[:CANDIDATES]), 0, len(dataset)
        counts[index] = sum(not instance.get("ignore_flag", 0) for instance in instances)
        if time.monotonic() > end:
            break
    fullest = sorted(counts, key=counts.get, reverse=True)
    return fullest[:CANDIDATES], counts[fullest[0]], len(counts)
