"""Mask R-CNN with a small ConvNeXt learns 50 real images: from scratch on two CPU cores.

Data     --data-root FOLDER in COCO's layout: 50 images of train2017 with 470 objects of 49 classes
Train    make learn DATA=FOLDER
Expect   box AP 0.65 and mask AP 0.46 on the images that it was trained on (docs/learning_run.md)
Cost     560 epochs of 25 steps, 54 minutes on two cores

It is evaluated on its own training images. That is memorisation and says nothing about other images: it shows
that pipeline, targets, losses and evaluation of the recipe work on real ones.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_3x.py"]

# ---- every length in pixels is this part of the recipe's: 800 -> 200, 1333 -> 333
part = 0.25
longer_side = 333

# ---- model: a quarter of the channels; 2.5 M parameters, half in the backbone
dims = [32, 64, 128, 256]
channels = 64
extractor = dict(out_channels=channels, finest_scale=28)  # 56 in the recipe
model = dict(
    # Padding of zeros gives every channel the same value, hence no variance, which a LayerNorm of a network
    # that starts from random weights answers with 1000 times the gradient (docs/faq.md).
    data_preprocessor=dict(pad_value=1.0),
    backbone=dict(
        type="ConvNeXt",
        arch=dict(depths=[1, 1, 3, 1], dims=dims),
        # The released initialisation (std 0.02) suits wider nets; narrow ones start more slowly with it.
        init_cfg=dict(type="Kaiming", layer=["Conv2d", "Linear"], nonlinearity="linear"),
    ),
    neck=dict(in_channels=dims, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[2, 4]),  # small objects: from 8 pixels on, and not from 32
        # The recipe's RPN samples 256 of an image's tens of thousands of anchors: enough for 4 million views
        # of COCO, and not for these 25,000. The focal loss learns from all anchors.
        loss_cls=dict(
            _delete_=True, type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        ),
        init_cfg=dict(
            type="Normal",
            layer="Conv2d",
            std=0.01,
            override=dict(type="Normal", name="rpn_cls", std=0.01, bias_prob=0.01),
        ),
    ),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=extractor,
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            norm_cfg=dict(type="GN", num_groups=16),  # from scratch it learns sooner with a norm
        ),
    ),
    # No image has more than 38 objects, so fewer proposals and samples do.
    train_cfg=dict(
        rpn=dict(sampler=None),  # all anchors
        rpn_proposal=dict(nms_pre=300, max_per_img=200),
        rcnn=dict(sampler=dict(num=96)),
    ),
)

# ---- data: the recipe's pipeline
resize = dict(
    type="RandomChoiceResize",
    scales=[(round(part * size), longer_side) for size in range(480, 801, 32)],
    keep_ratio=True,
)
crop = [
    dict(
        type="RandomChoiceResize",
        scales=[(round(part * size), longer_side) for size in (400, 500, 600)],
        keep_ratio=True,
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute_range",
        crop_size=(round(part * 384), round(part * 600)),
        allow_negative_crop=True,
    ),
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    # Polygons: as pixels of an image of this size, small objects lose their outlines (docs/learning_run.md).
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[resize], [*crop, resize]]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(longer_side, round(part * 800)), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
# Two processes of one image each need no padding, and 50 images leave no time for large batches.
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline), **workers)
# The training images again, whole and in their order.
val_dataloader = dict(
    dataset=dict(
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=test_pipeline,
    ),
    **workers,
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/coco/annotations/instances_train2017.json")
test_evaluator = val_evaluator

# ---- schedule: 49 annotated images / 2 = 25 steps an epoch
max_epochs = 560
train_cfg = dict(max_epochs=max_epochs, val_interval=70)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        eta_min=1e-6,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(lr=4e-4, weight_decay=0.01, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        # The mask head is the slowest to learn, and the only one that bears a higher rate.
        custom_keys={"mask_head": dict(lr_mult=4.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(_delete_=True, enable=False)  # no batch to accumulate to

# ---- bookkeeping
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=max_epochs, save_best=None),
)
randomness = dict(seed=0)
