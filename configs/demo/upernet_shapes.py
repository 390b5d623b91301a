"""UperNet with a small ConvNeXt on synthetic shapes: from scratch on two CPU cores in two minutes.

Data     tools/make_shapes.py --out work_dirs/demo/shapes
Train    tools/train.py configs/demo/upernet_shapes.py
Expect   mIoU above 0.85 on the validation scenes
"""

_base_ = "../_base_/upernet.py"
custom_imports = dict(imports=["convnext_dense.mm"], allow_failed_imports=False)
default_scope = "mmseg"

# ---- model: 1.2 M parameters in the backbone, 0.45 M in the heads
dims = [32, 64, 128, 256]
num_classes = 4  # the background and three shapes
# The backbone normalises its outputs, so the heads have no norms.
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(
        type="ConvNeXt",
        arch=dict(depths=[1, 1, 3, 1], dims=dims),
        # The released initialisation (std 0.02) suits wider networks; narrow ones start more slowly with it.
        init_cfg=dict(type="Kaiming", layer=["Conv2d", "Linear"], nonlinearity="linear"),
    ),
    decode_head=dict(
        in_channels=dims, channels=48, num_classes=num_classes, norm_cfg=None, dropout_ratio=0.0
    ),
    auxiliary_head=dict(
        in_channels=dims[2], channels=48, num_classes=num_classes, norm_cfg=None, dropout_ratio=0.0
    ),
    test_cfg=dict(_delete_=True, mode="whole"),  # scenes are no larger than the crop
)

# ---- data
metainfo = dict(
    classes=("background", "circle", "triangle", "cross"),
    palette=[[221, 221, 221], [0, 114, 178], [230, 159, 0], [0, 158, 115]],
)
dataset = dict(
    type="BaseSegDataset",
    data_root="work_dirs/demo/shapes/ade20k",
    metainfo=metainfo,
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

# ---- schedule: 600 steps of 4 scenes are 2.4 passes over 1000
max_iters = 600
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1.5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=30, end=max_iters, eta_min=1e-5),
]

# ---- bookkeeping
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=max_iters),
)
log_processor = dict(by_epoch=False, window_size=20)
log_level = "INFO"
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
tta_model = dict(type="SegTTAModel")

# ---- process
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
load_from = None
resume = False
randomness = dict(seed=0)
