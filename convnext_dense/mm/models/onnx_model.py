"""An exported file in the place of a model, in tests and predictions of mmengine's runner."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from convnext_dense.errors import UserError
from convnext_dense.export.engines import EngineName
from convnext_dense.export.images import load_rgb
from convnext_dense.export.metadata import Metadata
from convnext_dense.export.runtime import Predictor, Result
from convnext_dense.recipes import list_configs

SUFFIX = ".onnx"


def is_exported(checkpoint: str | Path) -> bool:
    """Whether this names an exported file and no checkpoint."""
    return str(checkpoint).lower().endswith(SUFFIX)


def recipe_of(path: str | Path) -> str:
    """The recipe that an exported file names.

    Raises:
        UserError: it is none of this package, or the file was exported from the user's own config.
    """
    name = Predictor(path).metadata.recipe
    if name not in list_configs():
        raise UserError(
            f"{path} was exported from {name}, which is no recipe: give the config, and --checkpoint {path}"
        )
    return name


def check_exported(dtype: str, tta: bool = False, compiled: bool = False) -> None:
    """Check the options that do not go with an exported file.

    Raises:
        UserError: a precision, which the file has its own of, augmented testing, or `torch.compile`.
    """
    if compiled:
        raise UserError("--compile: an exported file runs without torch; leave it out")
    if tta:
        raise UserError("--tta: an exported file predicts at one scale; test the checkpoint")
    if dtype != "fp32":
        raise UserError(f"--dtype {dtype}: an exported file has its own precision; export it with --half")


def check_fits(metadata: Metadata, path: str | Path, model: Mapping, classes: Sequence[str]) -> None:
    """Check that an exported file is of the same task and classes as a config.

    A checkpoint of another model does not load; a file would run, with labels that mean something else.

    Args:
        metadata: of the file.
        path: the file.
        model: the config's model.
        classes: names in the config's test dataset; none where they are not known.

    Raises:
        UserError: another task, another number of classes, or the same names in another order.
    """
    kind = "segmentor" if "decode_head" in model else "detector"
    if metadata.kind != kind:
        raise UserError(
            f"{path} is a {metadata.kind}, exported from {metadata.recipe}; the config's model is a {kind}"
        )
    theirs, ours = list(metadata.classes), list(classes)
    if theirs and ours and (len(theirs) != len(ours) or (theirs != ours and set(theirs) == set(ours))):
        raise UserError(
            f"{path} has {len(theirs)} classes ({', '.join(theirs[:5])}{', ...' * (len(theirs) > 5)}), the "
            f"config's test dataset {len(ours)} ({', '.join(ours[:5])}{', ...' * (len(ours) > 5)}); use the "
            "config in the work folder of the training, or --classes"
        )


class OnnxModel(BaseModel):
    """Predicts with the runtime of exported models, which reads and resizes each picture itself.

    So what is measured is what runs later without torch, and not the test pipeline of the config.

    Args:
        path: the file.
        engine: what runs it.
        threads: CPU threads; those of torch by default.

    Attributes:
        predictor: the runtime.
    """

    def __init__(self, path: str | Path, engine: EngineName = "auto", threads: int | None = None) -> None:
        super().__init__()
        self.predictor = Predictor(path, engine, threads or torch.get_num_threads())

    @property
    def dataset_meta(self) -> dict:
        """Class names and colours, as in a checkpoint."""
        meta = self.predictor.metadata
        return {"classes": meta.classes, "palette": list(meta.palette)}

    def forward(self, *args: object, **kwargs: object) -> None:
        """Not available: an exported file has no training and no features.

        Raises:
            UserError: always.
        """
        raise UserError("an exported file predicts, and does nothing else")

    def val_step(self, data: Mapping) -> list[BaseDataElement]:
        """Samples of a batch -> the same with predictions, from their ``img_path``."""
        return [self.predicted(sample) for sample in data["data_samples"]]

    test_step = val_step

    def predicted(self, sample: BaseDataElement) -> BaseDataElement:
        """A data sample of mmdet or mmseg with the prediction for its file.

        Raises:
            UserError: the sample does not have the path of its picture.
        """
        if "img_path" not in sample.metainfo:
            raise UserError(
                "an exported file reads the pictures itself, and the test pipeline does not pass their paths "
                "on: add 'img_path' to meta_keys of its last step"
            )
        picture = load_rgb(sample.img_path)
        return fill(sample, self.predictor(picture), picture.shape[:2])


def fill(sample: BaseDataElement, found: Result, hw: tuple[int, int]) -> BaseDataElement:
    """Put what the runtime found into a data sample.

    Args:
        sample: of mmdet for a detector, of mmseg for a segmentor.
        found: what the runtime returned.
        hw: (height, width) of the picture.
    """
    if "label_map" in found:
        labels = torch.from_numpy(found["label_map"].astype(np.int64))
        sample.pred_sem_seg = PixelData(data=labels[None])
        return sample
    instances = InstanceData(
        bboxes=torch.from_numpy(found["boxes"]),
        scores=torch.from_numpy(found["scores"]),
        labels=torch.from_numpy(found["labels"]),
    )
    if "masks" in found:
        masks = [mask.full() for mask in found["masks"]]
        instances.masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *hw), bool))
    sample.pred_instances = instances
    return sample
