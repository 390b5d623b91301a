"""Shared part of the ADE20K recipes of the paper: UperNet, 160,000 iterations of 8 GPUs x 2 images, poly."""

_base_ = ["mmseg::_base_/models/upernet_r50.py", "mmseg::_base_/default_runtime.py"]
custom_imports = dict(imports=["convnext_dense.mm"], allow_failed_imports=False)

# ---- model: mmseg's heads, with SyncBN; the auxiliary one reads stage 2 and has weight 0.4
# The types of this package are mmseg's classes. Under fp16 they resize logits in float32, as released.
model = dict(
    pretrained=None,
    decode_head=dict(type="convnext_dense.UPerHead", num_classes=150),
    auxiliary_head=dict(type="convnext_dense.FCNHead", num_classes=150),
)

# ---- schedule: 20,210 training images, so 160,000 x 16 images are 127 epochs
max_iters = 160_000
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=16_000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    # As released, iteration n has (1 - n / 160,000) of the rate, from n = 0 on, times a warm-up of 1500
    # iterations. mmengine multiplies the two and spreads each over end - 1 steps, hence the ends.
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=max_iters + 1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

# ---- bookkeeping
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", by_epoch=False, interval=16_000, max_keep_ckpts=2, save_best="mIoU"
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)

# ---- test with several scales and flip: whole images; the test at one scale uses sliding windows
tta_model = dict(type="SegmentationTTA", mode="whole")
