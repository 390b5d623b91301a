"""One picture per test image."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from convnext_dense.data.views import load_view
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import image_paths
from convnext_dense.support.files import output_names


@HOOKS.register_module()
class PicturesHook(Hook):
    """Write one picture per test image: ground truth on the left, prediction on the right.

    mmdet and mmseg each have a hook, with different options and file names. Their
    visualizers work alike, so one hook serves both.

    Args:
        out_dir: folder of the pictures, which are named like the images; see :func:`output_names`.
        score_thr: detections below this score are not drawn.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        """Name the pictures of all images."""
        self.names = output_names(image_paths(runner.test_dataloader.dataset))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw each sample of the batch."""
        for sample in outputs:
            name = self.names.get(os.path.abspath(sample.img_path), Path(sample.img_path).stem)
            draw(runner.visualizer, sample, self.out_dir / f"{name}.png", self.score_thr, draw_gt=True)


def draw(visualizer, sample: BaseDataElement, out_file: Path, score_thr: float, draw_gt: bool) -> None:
    """Draw one prediction into ``out_file``, beside its ground truth if wanted.

    Raises:
        UserError: the picture would overwrite the image itself.
    """
    image = load_view(sample.img_path, tuple(sample.ori_shape[:2][::-1]))
    if out_file.resolve() == Path(sample.img_path).resolve():
        raise UserError(f"{out_file} is an input image; choose another folder for the pictures")
    if image.shape[:2] == (1, 1):  # mmseg takes a mask of one pixel for an index
        out_file.parent.mkdir(parents=True, exist_ok=True)
        out_file.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        return
    threshold = {"pred_score_thr": score_thr} if "pred_instances" in sample else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of bounds")  # boxes may end beyond the image
        visualizer.add_datasample(
            out_file.stem,
            image,
            data_sample=sample.cpu(),
            draw_gt=draw_gt,
            show=False,
            out_file=str(out_file),
            **threshold,
        )
