"""UperNet, ConvNeXt-S, ADE20K 160k at 512 pixels.

Paper      Table 4: mIoU 48.7 at one scale, 49.6 at several + flip; 1027 GMACs at 512x2048; 82 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_s_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="small",
        drop_path_rate=0.3,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224.pth"
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# Stage 2 has 27 blocks, so num_layers = 3 + 27 / 3 = 12; stage i trains at 0.9^(12 - i) of the heads' rate,
# stem and downsampling layers at 0.9^13 = 0.25.
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
)
