"""Transforms that read images and label maps, and handle bad ones.

They replace mmcv's ``LoadImageFromFile`` and the ``LoadAnnotations`` of label maps. A bad file raises a
:class:`BadInputError`, or the sample is dropped as usual in mmengine, by returning ``None``, and the dataset
draws another one. Notes about dropped files (:class:`Dropped`) reach the main process with the next sample
that this process finishes: a worker's own log lines would repeat every epoch, and those of other ranks would
be missing.
"""

import errno
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement

from convnext_dense.data.image_headers import PictureError, read_header
from convnext_dense.data.image_io import read_label_map, read_picture
from convnext_dense.errors import UserError, reason
from convnext_dense.mm.datasets.decoders import build_loader, decode, need_decoder

FIELD = "bad_input"
"""Entry of a sample's meta information: the ``(file, message)`` pairs that were dropped before it."""
MAX_IN_A_ROW = 50


class BadInputError(UserError):
    """A file of the data set that cannot be used; one line gives its name and id."""

    def __str__(self) -> str:
        """The line alone, also when torch passes the error on from a worker inside a traceback."""
        text = super().__str__()
        return text.rpartition(f"{type(self).__name__}: ")[2].strip() if "Traceback" in text else text


class Dropped:
    """Bad files that were dropped since the last finished sample.

    The transforms of a loader share one object, which their configs hold. A note cannot travel inside its
    sample: a dropped sample is ``None``, and of images that are mixed (Mosaic) only one keeps its entries.
    Each worker process has its own copy, like everything that a data set holds.
    """

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []  # (file, message)

    def add(self, path: str, message: str) -> None:
        """Note a file.

        Raises:
            BadInputError: many files in a row were bad.
        """
        self.notes.append((path, message))
        if len(self.notes) >= MAX_IN_A_ROW:
            raise BadInputError(f"no usable image in {MAX_IN_A_ROW} draws, the last of them: {message}")

    def take(self) -> tuple[tuple[str, str], ...]:
        """Return the notes and forget them."""
        taken = tuple(self.notes)
        self.notes.clear()
        return taken


def drop(path: str, message: str, dropped: Dropped | None) -> None:
    """Return what a transform returns for a bad file: ``None``.

    Raises:
        BadInputError: ``dropped`` is ``None``, so no file may be dropped, or many files in a row were bad.
    """
    if dropped is None:
        raise BadInputError(message)
    dropped.add(path, message)


def read_bytes(path: str, backend_args: dict | None) -> bytes:
    """The content of a file, from wherever the config keeps it.

    Raises:
        PictureError: it is missing or cannot be read; a lost connection does not count as a bad file.
    """
    try:
        return fileio.get(path, backend_args=backend_args)
    except OSError as error:
        missing = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
        if isinstance(error, missing) or error.errno == errno.EIO:
            raise PictureError(error.strerror or str(error)) from None
        raise


def _name(results: Mapping) -> str:
    """``image a.jpg (id 17)``; label maps have no ids."""
    number = results.get("img_id")
    return f"image {results['img_path']}" + ("" if number is None else f" (id {number})")


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's transform for any kind of picture, in the orientation of the annotations.

    Args:
        dropped: takes notes of bad files; ``None``: they raise.
        options: options of mmcv's transform.
    """

    def __init__(self, dropped: Dropped | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.dropped = dropped
        need_decoder(self.imdecode_backend)

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3) uint8 BGR, or what other options read, ``img_shape`` and ``ori_shape``."""
        try:
            image = self.read(results)
        except PictureError as error:
            return drop(results["img_path"], f"{_name(results)}: {error}", self.dropped)
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def read(self, results: Mapping) -> np.ndarray:
        """The image of a sample.

        Raises:
            PictureError: the image cannot be used.
        """
        content = read_bytes(results["img_path"], self.backend_args)
        size = results.get("width"), results.get("height")
        size = None if None in size else (int(size[0]), int(size[1]))
        if self.color_type != "color" or self.imdecode_backend != "cv2":
            return decode(content, self.color_type, self.imdecode_backend, size)
        image = read_picture(content, size)
        labels = results.get("seg_map_path")
        return image if size or not labels else self._as_its_map(image, content, labels)

    def _as_its_map(self, image: np.ndarray, content: bytes, labels: str) -> np.ndarray:
        """The image as it is stored, if EXIF rotated it but not its label map."""
        stored = read_header(content).stored
        if image.shape[1::-1] == stored:
            return image
        try:
            unturned = read_header(read_bytes(labels, self.backend_args)).upright == stored
        except PictureError:  # reported when the label map is read
            return image
        return read_picture(content, stored) if unturned else image


@TRANSFORMS.register_module()
class LoadOwnImage(BaseTransform):
    """A loader of a toolbox or of the user's own, such as of arrays, whose failures name the file.

    Args:
        loader: config of the transform.
        dropped: takes notes of bad files; ``None``: they raise.
    """

    def __init__(self, loader: dict, dropped: Dropped | None = None) -> None:
        self.loader = build_loader(loader)
        self.dropped = dropped

    def transform(self, results: dict) -> dict | None:
        """Add what the loader adds."""
        try:
            return self.loader(results)
        except (ConnectionError, TimeoutError, NotImplementedError):  # of no file
            raise
        except (OSError, ValueError, RuntimeError, AssertionError, EOFError) as error:
            path = str(results.get("img_path"))
            said = getattr(error, "strerror", None) or reason(error)
            return drop(path, f"image {path}: {said}", self.dropped)


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(BaseTransform):
    """A toolbox's ``LoadAnnotations`` whose label map is read by :func:`read_label_map` and must fit.

    Args:
        loader: config of the toolbox's transform, which still loads boxes and masks.
        dropped: takes notes of bad files; ``None``: they raise.
    """

    def __init__(self, loader: dict, dropped: Dropped | None = None) -> None:
        self.loader = TRANSFORMS.build(loader)
        self.with_seg, self.loader.with_seg = self.loader.with_seg, False
        self.dropped = dropped

    def transform(self, results: dict) -> dict | None:
        """Add what the loader adds."""
        path = results.get("seg_map_path")
        if not self.with_seg or path is None:
            return self.loader(results)
        try:
            numbers = read_label_map(read_bytes(path, self.loader.backend_args))
            if numbers.shape != tuple(results["ori_shape"][:2]):
                height, width = results["ori_shape"][:2]
                raise PictureError(
                    f"it has {numbers.shape[1]}x{numbers.shape[0]} pixels, its image {width}x{height}"
                )
        except PictureError as error:
            return drop(path, f"label map {path} of {_name(results)}: {error}", self.dropped)
        ignored = getattr(self.loader, "ignore_index", None)
        classes = class_table(self._reduces(results), results.get("label_map"), ignored or 255)
        results["gt_seg_map"] = classes[numbers]
        if "seg_fields" in results:  # mmseg
            results["seg_fields"].append("gt_seg_map")
        if ignored is not None:  # mmdet
            results["ignore_index"] = ignored
        return self.loader(results)

    def _reduces(self, results: Mapping) -> bool:
        """Whether 0 means unlabelled; mmseg's datasets also set this."""
        own, of_dataset = getattr(self.loader, "reduce_zero_label", None), results.get("reduce_zero_label")
        if None not in (own, of_dataset) and own != of_dataset:
            raise UserError(f"reduce_zero_label is {of_dataset} for the dataset, {own} for LoadAnnotations")
        return bool(of_dataset if own is None else own)


def class_table(reduce_zero_label: bool, label_map: Mapping[int, int] | None, ignored: int) -> np.ndarray:
    """Stored number -> class, (256,) uint8; ``label_map`` replaces classes after the shift by one."""
    table = np.arange(256)
    if reduce_zero_label:
        table = np.where((table == 0) | (table == ignored), ignored, table - 1)
    exchanged = table.copy()
    for old, new in (label_map or {}).items():
        exchanged[table == old] = new
    return exchanged.astype(np.uint8)


@TRANSFORMS.register_module()
class ReportDropped(BaseTransform):
    """The last transform: attaches what was dropped to the sample, if the sample is complete.

    Args:
        dropped: notes of the transforms before this one.
    """

    def __init__(self, dropped: Dropped) -> None:
        self.dropped = dropped

    def transform(self, results: dict) -> dict:
        """Add :data:`FIELD` to the meta information."""
        if not isinstance(results, Mapping) or "inputs" not in results:
            return results  # one of several images to be mixed
        notes = self.dropped.take()
        sample = next(samples_of(results), None)
        if notes and sample is not None:
            sample.set_metainfo({FIELD: notes})
        elif notes:  # another kind of pipeline: log it here instead
            for _, message in notes:
                print_log(f"bad input: {message}", logger="current", level=logging.WARNING)
        return results


def samples_of(batch: Any) -> Iterator[BaseDataElement]:
    """All samples in nested containers."""
    if isinstance(batch, BaseDataElement):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from samples_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from samples_of(value)
