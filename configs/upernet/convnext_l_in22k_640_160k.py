"""UperNet, ConvNeXt-L pretrained on ImageNet-22K, ADE20K 160k at 640 pixels.

Paper      Table 4: mIoU 53.2 at one scale, 53.7 at several + flip; 2458 GMACs at 640x2560; 235 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_l_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_640.py"]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type="ConvNeXt",
        arch="large",
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth"
        ),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),  # 640 x 2 / 3 = 426
)

# Stage 2 has 27 blocks, so num_layers = 3 + 27 / 3 = 12; stage i trains at 0.9^(12 - i) of the heads' rate,
# stem and downsampling layers at 0.9^13 = 0.25. Released without fp16.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
)
