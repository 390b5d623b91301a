"""Optimizer for ConvNeXt on ADE20K: AdamW in fp16, learning rates that decay stage by stage."""

optim_wrapper = dict(
    type="AmpOptimWrapper",  # fp16; its loss scale is dynamic unless a number is given
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
)
