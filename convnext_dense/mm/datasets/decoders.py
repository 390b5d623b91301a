"""How a config reads its images: by mmcv's ``LoadImageFromFile`` with any options, or by a loader of its own.

Checks and predictions read a file as the config does. Only the first step of a pipeline reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import mmcv
import numpy as np
from mmengine.registry import TRANSFORMS, DefaultScope

from convnext_dense.data.image_headers import (
    Header,
    PictureError,
    UnknownFormatError,
    check_end,
    read_header,
    size_text,
)
from convnext_dense.data.image_io import silent_opencv, turned
from convnext_dense.errors import DenseError, UserError, reason
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.optional_packages import optional

WH = tuple[int, int]
HeaderOf = Callable[[Path], Header | None]
"""Sizes of an image file, ``None`` if its loader makes no picture of two dimensions.

Raises :class:`PictureError` or ``OSError`` for a file that cannot be used.
"""


def need_decoder(backend: str | None) -> None:
    """Check that the package that an ``imdecode_backend`` needs can be imported.

    Raises:
        MissingPackageError: it is absent.
        UserError: a backend that mmcv does not have.
    """
    known = mmcv.image.io.supported_backends
    if backend is not None and backend not in known:
        raise UserError(f"imdecode_backend={backend!r} of LoadImageFromFile; use one of {tuple(known)}")
    if backend == "tifffile" and mmcv.image.io.tifffile is None:  # it looked when it was imported
        mmcv.image.io.tifffile = optional("tifffile", "imdecode_backend='tifffile'")
    if backend == "turbojpeg":
        optional("turbojpeg", "imdecode_backend='turbojpeg'", "PyTurboJPEG")
        if mmcv.image.io.jpeg is None:
            mmcv.image.io.jpeg = mmcv.image.io.TurboJPEG()


def decode(content: bytes, color_type: str, backend: str | None, wh: WH | None = None) -> np.ndarray:
    """Decode as mmcv does with these options: (H, W) or (H, W, C) of any type.

    Args:
        content: bytes of a file.
        color_type: flag of ``mmcv.imfrombytes``.
        backend: decoder of ``mmcv.imfrombytes``.
        wh: (width, height) that the picture was annotated at. If only the picture as it is stored, or only
            the upright one, has that size, it is the one returned.

    Raises:
        PictureError: damaged or incomplete, of another size, or nothing that this decoder reads.
    """
    try:
        header = read_header(content)
        check_end(content)
    except UnknownFormatError as error:  # PIL knows fewer kinds than the decoders
        header, unknown = None, error
    picture = _decode(content, color_type, backend)
    if picture is None:
        hint = "" if color_type.startswith("unchanged") else "; color_type='unchanged' reads other channels"
        said = str(unknown) if header is None else "it has channels that are no colours"
        raise UnknownFormatError(f"{backend or 'mmcv'} cannot decode it: {said}{hint}")
    if wh is None or picture.shape[1::-1] == tuple(wh):
        return picture
    if header is not None and header.orientation >= 5:  # its sides are exchanged
        if picture.shape[1::-1] == header.stored:
            other = turned(picture, header.orientation)
        else:  # this decoder has turned it
            other = _decode(content, f"{color_type}_ignore_orientation", backend)
        if other is not None and other.shape[1::-1] == tuple(wh):
            return other
    size = size_text(picture.shape[1::-1])
    raise PictureError(f"it has {size} pixels, but was annotated at {size_text(wh)}")


def _decode(content: bytes, color_type: str, backend: str | None) -> np.ndarray | None:
    try:
        with silent_opencv():
            return mmcv.imfrombytes(content, flag=color_type, backend=backend)
    except Exception as error:  # of four libraries
        raise PictureError(reason(error)) from None


# ---- loaders of a pipeline


def image_loader(pipeline: Sequence[Mapping]) -> Mapping | None:
    """The step of a pipeline that reads the image: its first one."""
    return pipeline[0] if pipeline else None


def is_plain(step: Mapping | None) -> bool:
    """Whether a step reads ordinary pictures in colour: those that PIL's headers describe."""
    if step is None:
        return True
    if type_name(step) not in ("LoadImageFromFile", "LoadCheckedImage"):
        return False
    return step.get("color_type", "color") == "color" and step.get("imdecode_backend", "cv2") == "cv2"


def header_reader(pipeline: Sequence[Mapping], scope: str) -> HeaderOf:
    """A function that gives the size of an image file as ``pipeline`` reads it.

    Args:
        pipeline: config of the transforms of a data set.
        scope: mmengine's scope, in which the types are looked up.

    Raises:
        UserError: a loader that cannot be built.
    """
    step = image_loader(pipeline)
    if is_plain(step):
        return read_header
    read = array_reader(step, scope)

    def by_header(path: Path) -> Header | None:
        try:
            return read_header(path)
        except UnknownFormatError:
            return read(path)

    return by_header if type_name(step) == "LoadImageFromFile" else read


def has_picture_maps(pipeline: Sequence[Mapping]) -> bool:
    """Whether ``LoadAnnotations`` reads the label maps, and no loader of another kind of file."""
    names = [type_name(step) for step in pipeline]
    others = [name for name in names[1:] if "Load" in name and "Annotation" in name]
    return "LoadAnnotations" in names or not others


def array_reader(step: Mapping, scope: str) -> Callable[..., Header | None]:
    """A function of a path, and of the annotated (width, height), that reads a file by ``step``.

    It returns and raises what a :data:`HeaderOf` does.

    Raises:
        UserError: a loader that cannot be built.
    """
    load = build_loader(step, scope)

    def read(path: Path, wh: WH | None = None) -> Header | None:
        size = {} if wh is None else dict(width=wh[0], height=wh[1])
        try:
            results = load(dict(img_path=str(path), **size))
        except (KeyError, TypeError):  # it needs what only its own data set gives
            if type_name(step) != "LoadImageFromFile":
                return None
            raise
        except OSError:
            raise
        except Exception as error:
            raise PictureError(without_name(error)) from None
        if results is None:
            raise PictureError(f"{type_name(step)} returns nothing")
        shape = results.get("img_shape", np.shape(results.get("img"))[:2])
        return Header((int(shape[1]), int(shape[0]))) if len(shape) == 2 else None

    return read


def build_loader(step: Mapping, scope: str | None = None) -> Callable[[dict], dict | None]:
    """The transform of a step; mmcv's ``LoadImageFromFile`` becomes the checked one, which raises.

    Args:
        step: config of a transform.
        scope: mmengine's scope, in which the type is looked up; ``None``: the current one.

    Raises:
        UserError: it cannot be built.
    """
    step = dict(step)
    if type_name(step) == "LoadImageFromFile":
        step.pop("ignore_empty", None)
        step["type"] = "LoadCheckedImage"
    try:
        with DefaultScope.overwrite_default_scope(scope) if scope else nullcontext():
            return TRANSFORMS.build(step)
    except DenseError:
        raise
    except Exception as error:  # such as mmseg's of a missing gdal
        raise UserError(f"{type_name(step)} of the pipeline cannot be built: {reason(error)}") from None


def without_name(error: BaseException) -> str:
    """What is wrong with a file, without its name, which the caller adds."""
    inner = error.__context__ if isinstance(error.__context__, PictureError) else error
    return reason(inner)
