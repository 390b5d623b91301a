"""Hooks of the toolkit."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement

from convnext_dense.errors import UserError
from convnext_dense.layers.fused_block import fuse, unfuse


@HOOKS.register_module()
class PicturesHook(Hook):
    """Write one picture per test image: ground truth on the left, prediction on the right.

    mmdet and mmseg each have a hook, with different options and file names. Their
    visualizers work alike, so one hook serves both.

    Args:
        out_dir: folder of the pictures, which are named like the images.
        score_thr: detections below this score are not drawn.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw each sample of the batch."""
        for sample in outputs:
            draw(runner.visualizer, sample, self.out_dir, self.score_thr, draw_gt=True)


@HOOKS.register_module()
class GroupRatesHook(Hook):
    """Log the learning rate of every layer of a layer-wise decay as ``lr/layer 3``.

    mmengine logs only the rate of the first group, which is the smallest. Recipes with a single rate need no
    more. The terminal output does not change.
    """

    priority = "VERY_LOW"  # after the losses are recorded

    def before_train(self, runner: Runner) -> None:
        """Find out when mmengine logs, and the first group of each layer."""
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = intervals[0] if intervals else 50
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # several optimizers have none in common
        self.param_groups = optimizer.param_groups if optimizer else []
        layers = enumerate(group.get("layer_id") for group in self.param_groups)
        self.first_of = {layer: i for i, layer in reversed(list(layers)) if layer is not None}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Write the rates beside the losses."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            due = self.every_n_inner_iters(batch_idx, self.interval)
        else:
            due = self.every_n_train_iters(runner, self.interval)
        if due and len(self.first_of) > 1:
            layers = sorted(self.first_of.items())
            rates = {f"lr/layer {layer}": self.param_groups[i]["lr"] for layer, i in layers}
            runner.visualizer.add_scalars(rates, step=runner.iter + 1)


@HOOKS.register_module()
class FuseHook(Hook):
    """Fold the blocks' weights during an evaluation; see :mod:`convnext_dense.layers.fused_block`.

    Weights are folded at the first batch: before it they may still be loaded, or replaced by averaged ones,
    which folded weights would not follow. Folding is undone before the original weights are restored.
    """

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that the test runs with."""
        if batch_idx == 0:
            fuse(runner.model)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that an evaluation during training runs with."""
        if batch_idx == 0:
            fuse(runner.model)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        unfuse(runner.model)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        unfuse(runner.model)


@HOOKS.register_module()
class LoaderHook(Hook):
    """Warn once if the model waits for images; mmengine only logs the time.

    Args:
        window: number of measured steps, after as many for warm-up.
        share: share of the time that may be spent waiting.
    """

    priority = "VERY_LOW"  # after the timer

    def __init__(self, window: int = 50, share: float = 0.1) -> None:
        self.window = window
        self.share = share
        self.steps = 0
        self.waited = 0.0
        self.taken = 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Add up the step's times; judge them when there are enough."""
        self.steps += 1
        scalars = runner.message_hub.log_scalars
        if not self.window < self.steps <= 2 * self.window or "train/data_time" not in scalars:
            return
        self.waited += scalars["train/data_time"].current()
        self.taken += scalars["train/time"].current()
        if self.steps == 2 * self.window and self.waited > self.share * self.taken:
            loader = runner.train_dataloader
            runner.logger.warning(
                f"data loading does not keep up: {self.waited / self.taken:.0%} of the time of {self.window} "
                f"steps was spent waiting; raise train_dataloader.num_workers (now {loader.num_workers}) "
                "or put the images on a faster disk"
            )


def draw(visualizer, sample: BaseDataElement, out_dir: Path, score_thr: float, draw_gt: bool) -> Path:
    """Draw one prediction, beside its ground truth if wanted, and return the file written.

    Raises:
        UserError: the picture would overwrite the image itself.
    """
    image = mmcv.imread(sample.img_path, channel_order="rgb")
    out_file = out_dir / f"{Path(sample.img_path).stem}.png"
    if out_file.resolve() == Path(sample.img_path).resolve():
        raise UserError(f"{out_file} is an input image; choose another folder for the pictures")
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
    return out_file
