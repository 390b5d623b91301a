"""UperNet, isotropic ConvNeXt-S with a simple feature pyramid, ADE20K 160k at 512 pixels.

Paper      Table 2 (ImageNet only); 996 GMACs at 512x2048 and 54 M parameters, counted here
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/isotropic_s_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
Status     ours: the paper has it on ImageNet only. Recipe of ConvNeXt-T, pyramid of ViTDet. Not trained here.
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    # Test images are padded to the stem's stride, so that no pixel is lost; training crops need no padding.
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type="IsotropicConvNeXt",
        arch="isotropic_small",  # without layer scale, like its weights
        drop_path_rate=0.4,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_iso_small_1k_224_ema.pth",
        ),
    ),
    neck=dict(type="SimpleFeaturePyramid", in_channels=384, out_channels=256, num_outs=4),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    auxiliary_head=dict(in_channels=256),
)

# By depth, because a single stage cannot decay stage by stage. 18 blocks, so num_layers = 18 / 3 = 6; the
# stem trains at 0.9^7 = 0.48 of the heads' rate, as in ConvNeXt-T.
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.9),
)
