"""Files of predictions: which images, names of their outputs, and one JSON file of all results.

`tools/predict.py` and the runtime of exported models write the same files.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from convnext_dense.data.image_headers import IMAGE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.support.files import output_names, write_json

RESULTS = "predictions.json"
OUTPUTS = "outputs.json"  # absolute path of an image -> name of its outputs
_LABELS = "_labels"
_ENDINGS = ("", _LABELS)

Results = list[dict] | dict[str, float]
"""What the JSON file has of an image: its detections, or the share of pixels of each class found."""


def find_images(sources: list[str], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Image files in ``sources`` or in its folders, each once, sorted within a folder.

    Of a folder, hidden files and the pictures of earlier predictions are left out.

    Args:
        sources: files and folders.
        suffixes: what the names of images in a folder end in, in small letters.

    Raises:
        UserError: a source that does not exist, or no image at all.
    """
    images: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"no image or folder at {source}")
        for path in _images_below(source, suffixes) if source.is_dir() else [source]:
            images.setdefault(os.path.abspath(path), path)
    if not images:
        raise UserError(f"no images in {', '.join(sources)}; looked for {', '.join(suffixes)}")
    return list(images.values())


def _images_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if name[0] != "." and not Path(parent, name, RESULTS).is_file()
        ]
        found += [Path(parent, name) for name in names if name[0] != "."]
    return sorted(path for path in found if path.name.lower().endswith(suffixes))


def write_all(
    predict: Callable[[Path, Path], Results],
    images: Sequence[Path],
    out_dir: Path,
    reason_of: Callable[[Exception], str],
) -> Iterator[tuple[Path, str | None]]:
    """Predict one image after the other and write pictures, then ``predictions.json``, also after Ctrl-C.

    A segmentation also leaves its label map ``<image>_labels.png`` (one class index per pixel). For names see
    :func:`convnext_dense.support.files.output_names`; ``outputs.json`` has them. What an earlier run left of
    other images stays.

    Args:
        predict: predicts an image and writes its picture, in a folder that may not exist yet.
        images: files.
        out_dir: folder of all outputs.
        reason_of: one line about an error, for an image that is left out.

    Yields:
        each image with ``None``, or with the reason why it was left out.
    """
    names = add_names(_read(out_dir / OUTPUTS), images)
    again = {os.path.abspath(image) for image in images}
    earlier = _read(out_dir / RESULTS)
    results = {path: found for path, found in earlier.items() if os.path.abspath(path) not in again}
    try:
        for image in images:
            out_file = out_dir / f"{names[os.path.abspath(image)]}.png"
            try:
                results[str(image)] = predict(image, out_file)
            except Exception as error:  # one image must not cost the others
                yield image, reason_of(error)
            else:
                yield image, None
    finally:
        there = {os.path.abspath(image) for image in results}
        write_json(out_dir / OUTPUTS, {path: name for path, name in names.items() if path in there})
        write_json(out_dir / RESULTS, results)


def label_map_path(picture: Path) -> Path:
    """Where the label map lies whose picture is ``picture``."""
    return picture.with_name(f"{picture.stem}{_LABELS}.png")


def _read(path: Path) -> dict:
    """What an earlier run wrote in the same folder; nothing if it wrote none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_names(earlier: Mapping[str, str], images: Sequence[Path]) -> dict[str, str]:
    """Names of outputs by absolute path of the image: those of earlier runs, and others for new images.

    Args:
        earlier: names that are taken.
        images: images to predict.
    """
    names = dict(earlier)
    taken = {name + ending for name in names.values() for ending in _ENDINGS}
    for path, wanted in output_names([*earlier, *images], _ENDINGS).items():
        if path in names:
            continue
        free, number = wanted, 1
        while any(free + ending in taken for ending in _ENDINGS):
            number += 1
            free = f"{wanted}_{number}"
        names[path] = free
        taken.update(free + ending for ending in _ENDINGS)
    return names


# ---- entries of the JSON file


def detection_entry(
    box: Sequence[float], score: float, label: int, classes: Sequence[str], rle: dict | None = None
) -> dict:
    """A detection in COCO's result format.

    Args:
        box: x1, y1, x2, y2 in pixels; COCO's form is x, y, width, height.
        score: its score.
        label: class number, from 0.
        classes: names, by class number.
        rle: its mask in run lengths, if it has one.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    entry = {
        "category_id": label,
        "category_name": classes[label] if label < len(classes) else str(label),
        "score": round(score, 4),
        "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
    }
    return entry if rle is None else {**entry, "segmentation": rle}


def class_shares(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Share of the pixels (H, W) that each class has, of the classes that are found."""
    shares = np.bincount(labels.reshape(-1), minlength=len(classes)) / labels.size
    return {name: round(float(share), 4) for name, share in zip(classes, shares, strict=False) if share}
