"""Shared part of the COCO recipes of the paper: data, 36 epochs of AdamW on 8 GPUs x 2 images, warm-up."""

_base_ = ["mmdet::_base_/datasets/coco_instance.py", "mmdet::_base_/default_runtime.py"]
custom_imports = dict(imports=["convnext_dense.mm"], allow_failed_imports=False)

# ---- data: half of the images are resized, the other half cropped and then resized
shorter_side = [(size, 1333) for size in range(480, 801, 32)]
resize = dict(type="RandomChoiceResize", scales=shorter_side, keep_ratio=True)
crop = [
    dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[resize], [*crop, resize]]),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))

# ---- schedule: 117,266 annotated images / (8 GPUs x 2) = 7,330 iterations per epoch
max_epochs = 36
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    # As released: 500 iterations of warm-up from 0.001 of the rate; iteration 500 has the full rate.
    # mmengine spreads the warm-up over end - 1 steps, so end is 501.
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=501),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    type="AmpOptimWrapper",  # fp16; its loss scale is dynamic unless a number is given
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)

# ---- bookkeeping: one checkpoint per epoch; the last three and the best are kept
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="coco/bbox_mAP"))
