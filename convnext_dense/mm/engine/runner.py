"""From a config and a few options to a running mmengine ``Runner``."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.export.engines import EngineName
from convnext_dense.mm.config.edit import set_backends, set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.evaluators import check_evaluators
from convnext_dense.mm.config.formatted import FormattedOnce
from convnext_dense.mm.config.levels import check_levels
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.sections import Purpose, check_needed
from convnext_dense.mm.config.startup import drop_incomplete, set_loaders
from convnext_dense.mm.config.toolboxes import for_toolboxes
from convnext_dense.mm.config.tta import set_tta
from convnext_dense.mm.datasets.custom_classes import set_own_data
from convnext_dense.mm.datasets.declared import dataset_meta
from convnext_dense.mm.datasets.paths import check_data, set_data_root
from convnext_dense.mm.datasets.repair import tolerate_bad_data
from convnext_dense.mm.datasets.truth import follow_datasets
from convnext_dense.mm.engine.checkpoints import read_checkpoint, read_weights, whole_model_state
from convnext_dense.mm.engine.launch import select_device, start_processes
from convnext_dense.mm.engine.loops import StepLoop
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.engine.partial_loads import NewHeads, check_pretrained, loaded_as_far_as_it_fits
from convnext_dense.mm.engine.resume import (
    check_optimizer,
    follow_config,
    idle_line,
    planned,
    saved_of,
    without_average,
)
from convnext_dense.mm.mmcv_ext import ops_line
from convnext_dense.mm.models.autocast import predict_in
from convnext_dense.mm.models.batch_norm import allow_one_value
from convnext_dense.mm.models.mixed_sizes import allow_mixed_sizes
from convnext_dense.mm.models.onnx_model import OnnxModel, check_exported, check_fits, is_exported
from convnext_dense.mm.models.sliding_window import bound_predictions
from convnext_dense.mm.models.small_inputs import pad_small_inputs
from convnext_dense.models.compile import compile_in_place
from convnext_dense.recipes import run_name
from convnext_dense.support.modules import unwrapped
from convnext_dense.support.system import crowded_line

# mmengine starts with several hundred such lines, which only the log file needs
_LOG_FILE_ONLY = (
    "Config:",
    "\n----",  # versions and hardware
    "Hooks will be executed",
    "paramwise_options -- ",
    "Distributed training is not used",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


# Start times of this process's runs, by which mmengine finds a run's registry scope, log and message hub
_started: set[str] = set()


def unused_time(timestamp: str) -> str:
    """``timestamp`` (``YYYYmmdd_HHMMSS``), or the next second at which no run of this process started."""
    while timestamp in _started:
        next_second = datetime.strptime(timestamp, "%Y%m%d_%H%M%S") + timedelta(seconds=1)
        timestamp = next_second.strftime("%Y%m%d_%H%M%S")
    _started.add(timestamp)
    return timestamp


@RUNNERS.register_module()
class DenseRunner(Runner):
    """mmengine's runner with short terminal output and exact loading of whole models.

    Attributes:
        new_heads: whether the layers that depend on the classes keep their initial values at the start. It is
            no entry of the config: a test with the work folder's config loads all of them.
    """

    new_heads = False

    def setup_env(self, env_cfg):
        """Set the environment as mmengine does; two runs within a second do not share a scope and a log."""
        super().setup_env(env_cfg)
        self._timestamp = unused_time(self._timestamp)

    def build_model(self, model):
        """Build the model, which also takes images smaller than its stride, and batches of any images."""
        model = super().build_model(model)
        pad_small_inputs(model)
        allow_one_value(model)
        allow_mixed_sizes(model)
        return model

    def build_logger(self, *args, **kwargs):
        """Build mmengine's logger; records of little interest go to the log file only."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not record.getMessage().startswith(_LOG_FILE_ONLY))
        return logger

    def build_visualizer(self, visualizer=None):
        """Build mmengine's visualizer under the name of this run.

        Under the name in the config, a second run of the process would log into the first one's folder.
        """
        if isinstance(visualizer, dict):
            visualizer = dict(visualizer, name=self.experiment_name)
        return super().build_visualizer(visualizer)

    def load_checkpoint(self, filename, map_location="cpu", strict=None, revise_keys=None):
        """Load ``filename`` into the model, exactly unless the config says ``load_strict = False``.

        A backbone in the names of another code base is renamed.

        Raises:
            CheckpointError: unreadable, or keys or shapes that differ.
        """
        strict = self.cfg.get("load_strict", True) if strict is None else strict
        if not strict:
            checkpoint = super().load_checkpoint(
                filename, map_location, strict, revise_keys or [(r"^module\.", "")]
            )
            if self._resume:
                self._note_saved(checkpoint)
            self.logger.warning(loaded_as_far_as_it_fits(unwrapped(self.model), checkpoint, filename))
            return checkpoint
        model = unwrapped(self.model)
        checkpoint = read_checkpoint(filename) if self._resume else read_weights(filename)
        if self._resume:
            checkpoint["meta"]["seed"] = self.seed  # chosen before the data was distributed with it
            self._note_saved(checkpoint)
            if not any(isinstance(hook, EMAHook) for hook in self.hooks) and (
                line := without_average(checkpoint)
            ):
                self.logger.warning(line)
        heads = NewHeads(self.cfg) if self.new_heads and not self._resume else None
        checkpoint["state_dict"] = whole_model_state(model, checkpoint["state_dict"], filename, heads)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        self.logger.info(heads.line(filename) if heads else f"Load checkpoint from {filename}")
        return checkpoint

    def _init_model_weights(self) -> None:
        """Initialise as mmengine does; first say what fits of files that it loads as far as they fit."""
        for line in check_pretrained(unwrapped(self.model)):
            self.logger.info(line)
        super()._init_model_weights()

    def _note_saved(self, checkpoint: dict) -> None:
        self._saved = saved_of(checkpoint)
        if isinstance(self.optim_wrapper, OptimWrapper) and not isinstance(
            self.optim_wrapper, OptimWrapperDict
        ):
            check_optimizer(self._saved, self.optim_wrapper)

    def resume(self, filename, resume_optimizer=True, resume_param_scheduler=True, map_location="default"):
        """Resume as mmengine does, but with the config's settings where they differ from the checkpoint's.

        Hooks read ``_resume``, also when this is called directly.

        Raises:
            CheckpointError: unreadable, or of another model or kind of optimizer.
        """
        self._resume = True
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        own = planned(self)
        super().resume(filename, resume_optimizer, False, map_location)
        if resume_optimizer and resume_param_scheduler:
            for line in follow_config(self, own, self._saved):
                self.logger.warning(line)

    def load_or_resume(self):
        """Load as the config says; warn if the schedules leave steps without a learning rate."""
        super().load_or_resume()
        if isinstance(self._train_loop, StepLoop) and (line := idle_line(self)):
            self.logger.warning(line)


@RUNNERS.register_module()
class TestingRunner(DenseRunner):
    """Runner for tests in the work folder of a training, whose config it leaves as it is."""

    def dump_config(self) -> None:
        """Write nothing: the log has the config of the test."""


def work_folder(cfg: Config, given: str | None) -> str:
    """Folder of a run: the one given, the config's own, or one named after the recipe."""
    return given or cfg.get("work_dir") or f"work_dirs/{run_name(cfg.filename)}"


def open_config(source: str, options: Options, purpose: Purpose) -> tuple[Config, list[str]]:
    """Apply the shared options and open the process group; return the config and lines for the user.

    Raises:
        UserError: an unknown config or launcher, or a section that ``purpose`` needs is missing.
    """
    cfg = load_config(source, options.overrides)
    check_needed(cfg, purpose)
    check_levels(cfg)
    set_loaders(cfg)
    select_device(options.device, options.launcher)
    cfg.work_dir = work_folder(cfg, options.work_dir)
    if options.data_root:
        set_data_root(cfg, options.data_root)
    followed = follow_datasets(cfg, options.overrides, moved=bool(options.data_root))
    world_size = start_processes(cfg, options.launcher)
    for_toolboxes(cfg)
    cfg.runner_type = "DenseRunner"
    set_backends(cfg, options.log)
    plain = set_plain_batch_norm(cfg, world_size, get_device())
    return FormattedOnce.of(cfg), [*followed, *([plain] if plain else [])]


def testing_runner(
    source: str,
    checkpoint: str,
    options: Options,
    tta: bool = False,
    window_batch: int | None = None,
    fused: bool = True,
    dtype: str = "fp32",
    engine: EngineName = "auto",
) -> Runner:
    """A runner ready for ``test()`` with ``checkpoint`` loaded exactly.

    Args:
        source: config path or recipe name.
        checkpoint: file that training wrote, or an exported file.
        options: shared options.
        tta: merge predictions over scales and flips.
        window_batch: windows of a segmentor's image at once; ``None`` chooses by the free memory.
        fused: fold weights for speed; the outputs are the same.
        dtype: of the products.
        engine: what runs an exported file.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    if is_exported(checkpoint):
        check_exported(dtype, tta, options.compile)
    cfg, notes = open_config(source, options, "test")
    check_data(cfg, ("test",))
    notes += set_own_data(cfg, options.classes, ("test",))
    notes += check_evaluators(cfg, "test")
    drop_incomplete(cfg, ("train", "val"))
    if not Path(checkpoint).is_file() and "://" not in checkpoint:
        raise UserError(f"no checkpoint at {checkpoint}")
    set_pretrained(cfg, "none")
    cfg.load_from, cfg.resume = checkpoint, False
    notes.append(set_tta(cfg) if tta else None)
    cfg.runner_type = "TestingRunner"
    if is_exported(checkpoint):
        return _exported_runner(cfg, checkpoint, engine, notes)
    runner = RUNNERS.build(cfg)
    tolerate_bad_data(runner, strict=True)  # a bad file ends in one line; no note is needed
    notes.append(bound_predictions(runner.model, window_batch))
    if fused:
        runner.register_hook(dict(type="FuseHook"))
    if options.compile:
        notes.append(compile_backbone(runner.model))
    notes.append(predict_in(runner.model, dtype, get_device()))
    first = f"testing {checkpoint} on {get_device()}, RoIAlign and NMS: {ops_line(get_device())}"
    notes.append(crowded_line() if get_device() == "cpu" else None)
    for line in [first, *filter(None, notes)]:
        runner.logger.info(line)
    return runner


def _exported_runner(cfg: Config, path: str, engine: EngineName, notes: Sequence[str | None]) -> Runner:
    """A runner ready for ``test()`` with an exported file in the place of the model.

    Raises:
        UserError: a file of another task or other classes.
    """
    model = OnnxModel(path, engine)
    check_fits(model.predictor.metadata, path, cfg.model, dataset_meta(cfg).get("classes") or ())
    cfg.load_from = None
    runner = RUNNERS.build(cfg)
    runner.model = model
    tolerate_bad_data(runner, strict=True)
    for line in (f"testing {path} with {model.predictor.engine.name}", *filter(None, notes)):
        runner.logger.info(line)
    return runner


def compile_backbone(model: nn.Module) -> str:
    """Compile the backbone inside the wrappers of distributed and augmented testing; return a line to log."""
    if compile_in_place(unwrapped(model).backbone):
        return "backbone: torch.compile at its first images, which takes a minute or more"
    return "backbone: runs without torch.compile, which fails here"
