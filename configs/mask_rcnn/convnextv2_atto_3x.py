"""Mask R-CNN, ConvNeXt V2-A, COCO 3x.

Paper      none: V2 Table 6 has B, L and H; 180 GMACs at 1280x800 and 23 M parameters, counted here
Pretrained ImageNet-1K by FCMAE, without labels, 224 pixels (appendix A.3)
Train      torchrun --nproc-per-node 8 tools/train.py mask_rcnn/convnextv2_atto_3x --launcher pytorch
Cost       36 epochs x 3,665 iterations of 8 GPUs x 4 images of 1024x1024, fp16
Status     ours, from tiny: no recipe of this size was published. Not trained here.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_3x.py"]

# ---- data: A.3. Images are resized to 1024 x 0.1 to 2.0, cropped to 1024x1024 and padded to it
crop_size = (1024, 1024)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=crop_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute_range",  # with equal bounds: 1024x1024, or less of a smaller image
        crop_size=crop_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# 117,266 annotated images / (8 GPUs x 4) = 3,665 iterations per epoch
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(base_batch_size=32)

model = dict(
    data_preprocessor=dict(batch_augments=[dict(type="BatchFixedSizePad", size=crop_size, pad_mask=True)]),
    backbone=dict(
        type="ConvNeXt",
        arch="atto",
        use_grn=True,  # V2; GRN replaces the layer scale
        drop_path_rate=0.2,  # the lowest value of the sweep: 3.4 M parameters hardly overfit
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt",
        ),
    ),
    neck=dict(in_channels=[40, 80, 160, 320]),
    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms"))),  # A.3
)

# Stage 2 has 6 blocks, so num_layers = 3 + 6 / 3 = 5; the stem trains at 0.95^6 = 0.74 of the heads' rate.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.95),
)
