"""Mask R-CNN, isotropic ConvNeXt-S with a simple feature pyramid, COCO 3x.

Paper      Table 2 (ImageNet only); 262 GMACs at 1280x800 and 43 M parameters, counted here
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py mask_rcnn/isotropic_s_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     ours: the paper has it on ImageNet only. Recipe of ConvNeXt-T, pyramid of ViTDet. Not trained here.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_3x.py"]

model = dict(
    backbone=dict(
        type="IsotropicConvNeXt",
        arch="isotropic_small",  # without layer scale, like its weights
        drop_path_rate=0.4,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_iso_small_1k_224_ema.pth",
        ),
    ),
    # Strides 4, 8, 16, 32 from the map of stride 16, and 64 only for the RPN, like the last level of an FPN.
    neck=dict(_delete_=True, type="SimpleFeaturePyramid", in_channels=384, out_channels=256, num_outs=5),
)

# 18 blocks, so num_layers = 18 / 3 = 6; the stem trains at 0.95^7 = 0.70 of the heads'
# rate, as in ConvNeXt-T.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.95),
)
