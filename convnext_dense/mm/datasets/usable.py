"""Datasets and metrics that a model cannot use, said in one line before anything runs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.declared import is_kind
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings


class Need(NamedTuple):
    """What a kind of data needs of a model.

    Attributes:
        holds: what such data are.
        words: parts of names of types, or entries, in a model that can use them.
        instead: what a model without them can use.
    """

    holds: str
    words: tuple[str, ...]
    instead: str


PHRASES = Need("phrases for boxes", ("language_model", "Grounding", "Reader"), "a set with classes")
VIDEO = Need("videos", ("Track", "Sort", "VIS", "Video", "Masktrack"), "a set of single images")
DEPTH = Need("depths", ("Depth",), "label maps, for example BaseSegDataset with IoUMetric")
PANOPTIC = Need(
    "segments of things and stuff",
    ("Panoptic", "panoptic", "MaskFormer", "Mask2Former"),
    "CocoDataset with an instances_*.json and CocoMetric",
)
DATASETS: dict[str, Need] = {
    "BaseVideoDataset": VIDEO,
    "CocoPanopticDataset": PANOPTIC,
    "CocoCaptionDataset": Need("captions", ("Caption", "language_model"), "a set with boxes"),
    "DODDataset": PHRASES,
    "Flickr30kDataset": PHRASES,
    "MDETRStyleRefCocoDataset": PHRASES,
    "NYUDataset": DEPTH,
    "ODVGDataset": PHRASES,
    "ReIDDataset": Need("identities of persons", ("ReID",), "a set with boxes"),
    "RefCocoDataset": PHRASES,
}
"""Class of a dataset, or one that it inherits from -> what it needs."""
METRICS: dict[str, Need] = {
    "CocoPanopticMetric": PANOPTIC,
    "DepthMetric": DEPTH,
    "DODCocoMetric": PHRASES,
    "Flickr30kMetric": PHRASES,
    "RefExpMetric": PHRASES,
    "gRefCOCOMetric": PHRASES,
    "MOTChallengeMetric": VIDEO,
    "YouTubeVISMetric": VIDEO,
    "CocoVideoMetric": VIDEO,
    "ReIDMetrics": DATASETS["ReIDDataset"],
    "COCOCaptionMetric": DATASETS["CocoCaptionDataset"],
}
"""Metric -> what it needs."""


def refuse_unusable(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """Compare the kinds of data and metrics with the model.

    Raises:
        UserError: data or a metric for another task than the model's.
    """
    for topic, kind, need in _needs(cfg, splits):
        if not _has(cfg.model, need.words):
            raise UserError(
                f"{topic}: {kind} is for {need.holds}, which {type_name(cfg.model)} does not predict; use "
                f"{need.instead}"
            )


def _needs(cfg: Config, splits: tuple[str, ...]) -> Iterator[tuple[str, str, Need]]:
    for split in splits:
        for data in datasets_of(cfg, (split,)):
            for name, need in DATASETS.items():
                if is_kind(data, name):
                    yield f"{split}_dataloader", type_name(data), need
        for _, metric in mappings(cfg.get(f"{split}_evaluator")):
            if need := METRICS.get(type_name(metric)):
                yield f"{split}_evaluator", type_name(metric), need


def _has(model: Mapping, words: tuple[str, ...]) -> bool:
    """Whether a type or an entry of a model has one of these words."""
    for path, node in mappings(model):
        names = (type_name(node), *(key for key in path if isinstance(key, str)))
        if any(word in name for name in names for word in words):
            return True
    return False
