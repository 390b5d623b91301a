"""Run an exported model on pictures; numpy, Pillow and onnxruntime (or openvino) are enough.

    from convnext_dense.export.runtime import Predictor

    predictor = Predictor("model.onnx")
    found = predictor("street.jpg")
    predictor.draw("street.jpg", found, score_thr=0.3).save("found.png")

Or: python -m convnext_dense.export.runtime model.onnx street.jpg --out found
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convnext_dense.errors import DenseError, UserError, reason
from convnext_dense.export.drawing import draw_detections, draw_labels
from convnext_dense.export.engines import ENGINES, EngineName, open_model
from convnext_dense.export.images import fit_inside, fit_wh, load_rgb, padded, resize
from convnext_dense.export.masks import paste_masks
from convnext_dense.export.metadata import Metadata
from convnext_dense.export.outputs import (
    Results,
    class_shares,
    detection_entry,
    find_images,
    label_map_path,
    write_all,
)
from convnext_dense.export.windows import label_map, resize_bands, resize_labels, slide
from convnext_dense.support.files import free_path, replacing

Result = dict[str, Any]
"""Of a detector: ``boxes`` (n, 4) float32, x1 y1 x2 y2 in pixels of the picture, ``scores`` (n,) float32,
falling, ``labels`` (n,) int64, and if the model has masks ``masks``, a list of n
`convnext_dense.export.masks.Mask`. Of a segmentor: ``label_map`` (H, W), a class number per pixel."""


class Predictor:
    """A model in an ONNX file, with all that its test pipeline does before and after the network.

    Args:
        path: the file, written by ``tools/export.py``.
        engine: ``auto`` is ONNX Runtime, or OpenVINO where only that is installed.
        threads: CPU threads; by default one per core that this process may use.
        providers: what ONNX Runtime runs on, by its names, before the CPU.

    Attributes:
        metadata: what the file says of the model.
        classes: names, by class number.
        engine: the loaded network.

    Raises:
        UserError: a file that is no exported model, or an unknown engine.
        MissingPackageError: the engine is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        engine: EngineName = "auto",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.engine = open_model(path, engine, threads, providers)
        try:
            self.metadata = Metadata.from_json(self.engine.metadata_text)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.classes = self.metadata.classes

    def __call__(self, image: str | Path | np.ndarray, score_thr: float = 0.0) -> Result:
        """Predict on one picture, at its own size.

        Args:
            image: a file, or (H, W, 3) uint8, red first.
            score_thr: detections below it are left out, before their masks are pasted.

        Raises:
            PictureError: a file that is no usable picture.
            UserError: an array of another kind.
        """
        picture = _picture(image)
        if self.metadata.kind == "detector":
            return self._detect(picture, score_thr)
        return {"label_map": self._segment(picture)}

    # ---- the network's input

    def _resized(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (h, w, 3): at the network's scale."""
        wh = picture.shape[1], picture.shape[0]
        meta = self.metadata
        if meta.fixed_hw and not meta.windows:
            return resize(picture, fit_inside(wh, meta.fixed_hw[::-1]))
        if meta.scale is None:
            return picture
        return resize(picture, fit_wh(wh, meta.scale) if meta.keep_ratio else meta.scale)

    def _run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """(h, w, 3) uint8 -> outputs of this one image."""
        sizes = None
        if self.metadata.fixed_hw:
            sizes = np.array([pixels.shape[:2]], np.int64)
            pixels = padded(pixels, self.metadata.fixed_hw)
        outputs = self.engine.run(pixels.transpose(2, 0, 1)[None], sizes)
        return {name: output[0] for name, output in outputs.items()}

    # ---- detections

    def _detect(self, picture: np.ndarray, score_thr: float) -> Result:
        pixels = self._resized(picture)
        outputs = self._run(pixels)
        kept = np.flatnonzero(outputs["scores"][: int(outputs["count"])] >= score_thr)
        hw = picture.shape[0], picture.shape[1]
        factors = pixels.shape[1] / hw[1], pixels.shape[0] / hw[0]
        boxes = original_boxes(outputs["boxes"][kept], factors, self.metadata.masks)
        found: Result = {"boxes": boxes, "scores": outputs["scores"][kept], "labels": outputs["labels"][kept]}
        if self.metadata.masks:
            found["masks"] = paste_masks(outputs["masks"][kept], boxes, hw, self.metadata.mask_threshold)
        return found

    # ---- label maps

    def _segment(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (H, W) class numbers."""
        meta = self.metadata
        pixels = self._resized(picture)
        hw, inner = (array.shape[:2] for array in (picture, pixels))
        if meta.output == "labels":
            labels = self._run(pixels)["labels"][: inner[0], : inner[1]]
            return resize_labels(labels, hw).astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        bands = slide(pixels, *meta.windows, self._logits) if meta.windows else [self._logits(pixels)]
        return label_map(resize_bands(bands, inner, hw, meta.align_corners), meta.binary_threshold)

    def _logits(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (C, h, w) float32."""
        return self._run(pixels)["logits"][:, : pixels.shape[0], : pixels.shape[1]]

    # ---- results

    def as_json(self, result: Result, score_thr: float) -> Results:
        """Detections in COCO's result format, or the share of pixels of each class found.

        Boxes are [x, y, width, height] in pixels; ``category_id`` counts the classes from 0; masks are
        run-length encoded.
        """
        if "label_map" in result:
            return class_shares(result["label_map"], self.classes)
        rows = zip(result["boxes"], result["scores"], result["labels"], strict=True)
        masks = result.get("masks", [None] * len(result["boxes"]))
        return [
            detection_entry(
                box, float(score), int(label), self.classes, None if mask is None else mask.as_rle()
            )
            for (box, score, label), mask in zip(rows, masks, strict=True)
            if score >= score_thr
        ]

    def draw(self, image: str | Path | np.ndarray, result: Result, score_thr: float) -> Image.Image:
        """The picture with what was found in it.

        Args:
            image: the picture that was predicted, a file or (H, W, 3) uint8, red first.
            result: what the predictor returned for it.
            score_thr: detections below it are not drawn.
        """
        picture = _picture(image)
        if "label_map" in result:
            return draw_labels(picture, result["label_map"], self.metadata.palette)
        kept = [i for i, score in enumerate(result["scores"]) if score >= score_thr]
        found = {
            name: [rows[i] for i in kept] if isinstance(rows, list) else rows[kept]
            for name, rows in result.items()
        }
        return draw_detections(picture, found, self.classes, self.metadata.palette)


def original_boxes(boxes: np.ndarray, factors: tuple[float, float], masks: bool) -> np.ndarray:
    """Boxes (n, 4) of the network's input in pixels of the picture, rounded as mmdet rounds them.

    Args:
        boxes: x1 y1 x2 y2, float32.
        factors: width and height of the input over those of the picture.
        masks: whether the model has masks: mmdet then divides by the factors, else it multiplies by their
            inverses.
    """
    if masks:
        return boxes / np.array(factors * 2, np.float32)
    return boxes * np.array([1 / factor for factor in factors * 2], np.float32)


def _picture(image: str | Path | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, red first.

    Raises:
        UserError: an array of another kind.
    """
    if not isinstance(image, np.ndarray):
        return load_rgb(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"a picture is (H, W, 3) uint8, red first, not {image.dtype} of shape {image.shape}")
    return image


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write class numbers (H, W), uint8 or uint16, as a PNG of 8 or 16 bits, atomically."""
    with replacing(path) as partial_file:
        Image.fromarray(labels).save(partial_file, "PNG")


# ---- the command


def predict_file(predictor: Predictor, score_thr: float, image: Path, out_file: Path) -> Results:
    """Predict an image, write its picture and its label map, and return its results for the JSON file.

    Raises:
        UserError: the picture would overwrite the image itself.
    """
    if out_file.resolve() == image.resolve():
        raise UserError(f"{out_file} is an input image; choose another folder for the pictures")
    picture = load_rgb(image)
    result = predictor(picture, score_thr)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out_file) as partial_file:
        predictor.draw(picture, result, score_thr).save(partial_file, "PNG")
    if "label_map" in result:
        save_labels(label_map_path(out_file), result["label_map"])
    return predictor.as_json(result, score_thr)


def _reason(error: Exception) -> str:
    """Why an image was left out; the kind of an error that may be a fault of the code is named."""
    known = isinstance(error, DenseError | OSError)
    return reason(error) if known else f"{type(error).__name__}: {reason(error)}"


def _counted(items: Iterator[tuple[Path, str | None]], total: int) -> Iterator[tuple[Path, str | None]]:
    """Pass ``items`` on and print how many there were: each second on a terminal, else every 30 seconds."""
    terminal = sys.stderr.isatty()
    printed, started = time.monotonic(), time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - printed >= (1 if terminal else 30) or (terminal and number == total):
            rate = (now - started) / number
            line = f"{number}/{total} images, {rate:.2f} s each"
            print(line, end="\n" if number == total or not terminal else "\r", file=sys.stderr, flush=True)
            printed = now


def predict(args: argparse.Namespace) -> int:
    """Predict all images; return the command's exit status: 1 if all were left out."""
    images = find_images(args.images)
    predictor = Predictor(args.model, args.engine, args.threads, args.providers)
    out = Path(args.out) if args.out else free_path(Path("predictions"))
    print(f"{predictor.metadata.recipe} on {predictor.engine.name}", file=sys.stderr)
    pairs = write_all(partial(predict_file, predictor, args.score_thr), images, out, _reason)
    left_out = [(image, why) for image, why in _counted(pairs, len(images)) if why]
    for image, why in left_out:
        print(f"left out {image}: {why.removeprefix(f'{image}: ')}")
    print(f"{len(images) - len(left_out)} pictures and predictions.json in {out}")
    return 1 if len(left_out) == len(images) else 0


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; errors of the user end it with one line and status 2."""
    parser = argparse.ArgumentParser(description="Predict with an exported model: pictures, predictions.json")
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--out", metavar="DIR", help="default: predictions, or predictions_2, ...")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections kept (default: 0.3)")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: one per core)")
    parser.add_argument(
        "--providers", nargs="+", metavar="NAME", help="of ONNX Runtime, such as CUDAExecutionProvider"
    )
    args = parser.parse_args(argv)
    try:
        raise SystemExit(predict(args))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (DenseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
