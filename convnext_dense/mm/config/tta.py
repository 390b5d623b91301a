"""Test-time augmentation as an edit of a config: its test pipeline, and a wrapper of its model."""

import copy

from mmengine.config import Config, ConfigDict

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.type_names import type_name

SEGMENTATION_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # as published for ADE20K
DETECTION_RATIOS = (0.75, 1.0, 1.25)  # nothing is published
# these keep the logits of every augmentation, or refuse masks; ours replace them
_REPLACED = {"SegTTAModel": "SegmentationTTA", "DetTTAModel": "DetectionTTA"}


def set_tta(cfg: Config) -> str:
    """Switch ``cfg`` to augmented testing and return the line for the user.

    Raises:
        UserError: a test pipeline that cannot be augmented, or a model of another kind.
    """
    segments = "decode_head" in cfg.model
    if not segments and "roi_head" not in cfg.model:
        raise UserError(f"--tta needs a segmentor or a detector with RoI heads, not {cfg.model.type}")
    ours = "SegmentationTTA" if segments else "DetectionTTA"
    wrapper = ConfigDict(cfg.get("tta_model") or dict(type=ours))
    if type_name(wrapper) in _REPLACED:
        wrapper = ConfigDict(type=ours)
    ratios = SEGMENTATION_RATIOS if segments else DETECTION_RATIOS
    for data in datasets_of(cfg, ("test",)):
        data.pipeline = copy.deepcopy(cfg.get("tta_pipeline")) or augmented_pipeline(data.pipeline, ratios)
    cfg.model = ConfigDict(wrapper, module=cfg.model)
    source = "the config's tta_pipeline" if cfg.get("tta_pipeline") else f"ratios {ratios}, each flipped too"
    return f"augmented test: {source}"


def augmented_pipeline(steps: list[dict], ratios: tuple[float, ...]) -> list[dict]:
    """Build the augmented test pipeline: load, then each ratio with and without a flip, then the other steps.

    A ratio multiplies the scale that the pipeline resizes to, as published; mmseg's own configs multiply
    the size of the image itself. Annotations are read after the flip, so they stay as they are.

    Raises:
        UserError: a resize whose scale cannot be multiplied.
    """
    kinds = [type_name(step) for step in steps]
    load = [step for step, kind in zip(steps, kinds, strict=True) if kind.startswith("LoadImage")]
    resizes = [step for step, kind in zip(steps, kinds, strict=True) if "Resize" in kind]
    rest = [copy.deepcopy(step) for step in steps if step not in load and step not in resizes]
    if resizes and [kind for kind in kinds if "Resize" in kind] != ["Resize"]:
        raise UserError(
            f"--tta cannot augment {[step.type for step in resizes]}; give the config a tta_pipeline"
        )
    resize = resizes[0] if resizes else ConfigDict(type="Resize", scale_factor=1.0, keep_ratio=True)
    for step in rest:
        if step.get("meta_keys"):  # the flip has to be known when predictions are flipped back
            step.meta_keys = tuple(dict.fromkeys([*step.meta_keys, "scale_factor", "flip", "flip_direction"]))
    flips = [ConfigDict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)]
    variants = [[_scaled(resize, ratio) for ratio in ratios], flips, *([step] for step in rest)]
    return [*load, ConfigDict(type="TestTimeAug", transforms=variants)]


def _scaled(resize: ConfigDict, ratio: float) -> ConfigDict:
    """The resize step with its scale times ``ratio``."""
    step = copy.deepcopy(resize)
    if step.get("scale") is None:
        factors = step.scale_factor if isinstance(step.scale_factor, tuple) else (step.scale_factor,) * 2
        step.scale_factor = tuple(factor * ratio for factor in factors)
    else:
        scale = (step.scale,) * 2 if isinstance(step.scale, int) else step.scale
        step.scale = tuple(int(side * ratio) for side in scale)
    return step
