"""UperNet, ConvNeXt-T, ADE20K 160k at 512 pixels.

Paper      Table 4: mIoU 46.0 at one scale, 46.7 at several + flip; 939 GMACs at 512x2048; 60 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_t_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth"
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# Stage 2 has 9 blocks, so num_layers = 3 + 9 / 3 = 6; stage i trains at 0.9^(6 - i) of the heads' rate,
# stem and downsampling layers at 0.9^7 = 0.48.
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
)
