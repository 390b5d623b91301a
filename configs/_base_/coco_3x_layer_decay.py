"""The COCO recipe for ConvNeXt: layer-wise learning-rate decay; each recipe states its ``decay_rate``."""

_base_ = "./coco_3x.py"

optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise"),
)
