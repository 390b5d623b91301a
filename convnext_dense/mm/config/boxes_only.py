"""``--boxes-only``: a recipe with a mask head becomes one for data whose objects have boxes alone."""

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.evaluators import evaluators_of
from convnext_dense.mm.datasets.paths import SPLITS
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

PARTS = ("mask_head", "mask_roi_extractor")


def drop_masks(cfg: Config) -> str:
    """Take the mask head of a two-stage detector out, and masks out of pipelines and evaluators.

    What is left of Mask R-CNN is Faster R-CNN, of Cascade Mask R-CNN it is Cascade R-CNN.

    Args:
        cfg: changed in place.

    Returns:
        the line for the user.

    Raises:
        UserError: the model has no mask head beside its box head.
    """
    heads = [node for _, node in mappings(cfg.model) if node.get("mask_head") and node.get("bbox_head")]
    if not heads:
        raise UserError(f"--boxes-only: {type_name(cfg.model)} has no mask head beside a box head")
    for head in heads:
        for part in PARTS:
            head[part] = None
    for _, node in mappings(cfg._cfg_dict):  # noqa: SLF001  (also hooks that change the pipeline)
        if node.get("with_mask"):
            node["with_mask"] = False
    for split in SPLITS:
        for evaluator in evaluators_of(cfg, split):
            if "segm" in (evaluator.get("metric") or ()):
                evaluator["metric"] = "bbox"
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if "segm" in str(checkpoint.get("save_best")):
        checkpoint["save_best"] = "coco/bbox_mAP"
    return "boxes only: the model has no mask head, and masks are neither read nor evaluated"
