"""Mask R-CNN with a small ConvNeXt on synthetic shapes: from scratch on two CPU cores in three minutes.

Data     tools/make_shapes.py --out work_dirs/demo/shapes
Train    tools/train.py configs/demo/mask_rcnn_shapes.py
Expect   box AP above 0.70, box and mask AP50 above 0.92 on the validation scenes
"""

_base_ = "../_base_/mask_rcnn.py"
custom_imports = dict(imports=["convnext_dense.mm"], allow_failed_imports=False)
default_scope = "mmdet"

# ---- model: a quarter of the channels; 2.4 M parameters, half in the backbone
dims = [32, 64, 128, 256]
num_classes = 3
model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch=dict(depths=[1, 1, 3, 1], dims=dims),
        # The released initialisation (std 0.02) suits wider networks; narrow ones start more slowly with it.
        init_cfg=dict(type="Kaiming", layer=["Conv2d", "Linear"], nonlinearity="linear"),
    ),
    neck=dict(in_channels=dims, out_channels=64),
    # The shapes span 25 to 80 pixels: anchors start at 4 * 4 = 16 pixels, where COCO's start at 32.
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=num_classes),
    ),
    # Scenes have at most seven shapes, so fewer proposals are enough; those without area are dropped.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100, min_bbox_size=0),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100, min_bbox_size=0), rcnn=dict(max_per_img=30)),
)

# ---- data
metainfo = dict(
    classes=("circle", "triangle", "cross"),
    palette=[(0, 114, 178), (230, 159, 0), (0, 158, 115)],
)
data_root = "work_dirs/demo/shapes/coco/"
size = (160, 160)
image = dict(type="LoadImageFromFile")
annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
resize = dict(type="Resize", scale=size, keep_ratio=True)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=metainfo,
        pipeline=[
            image,
            annotations,
            resize,
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        metainfo=metainfo,
        test_mode=True,
        pipeline=[
            image,
            resize,
            annotations,  # after the resize: ground truth keeps the size of the original image
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
    format_only=False,
)
test_evaluator = val_evaluator

# ---- schedule: 500 steps of 4 scenes are two passes over 1000
max_iters = 500
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
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
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=max_iters),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
log_processor = dict(type="LogProcessor", by_epoch=False, window_size=20)
log_level = "INFO"
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")

# ---- process
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
load_from = None
resume = False
randomness = dict(seed=0)
