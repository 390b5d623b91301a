"""UperNet, ConvNeXt-B pretrained on ImageNet-22K, ADE20K 160k at 640 pixels.

Paper      Table 4: mIoU 52.6 at one scale, 53.1 at several + flip; 1828 GMACs at 640x2560; 122 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_b_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_640.py"]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type="ConvNeXt",
        arch="base",
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth"
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),  # 640 x 2 / 3 = 426
)

# Stage 2 has 27 blocks, so num_layers = 3 + 27 / 3 = 12; stage i trains at 0.9^(12 - i) of the heads' rate,
# stem and downsampling layers at 0.9^13 = 0.25.
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
)
