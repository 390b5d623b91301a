"""UperNet, ConvNeXt-S, ADE20K 160k at 512 pixels.

Paper      Table 4: mIoU 48.7 at one scale, 49.6 at several + flip; 1027 GMACs at 512x2048; 82 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_s_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = "./convnext_t_512_160k.py"

model = dict(
    backbone=dict(
        arch="small",
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224.pth"),
    ),
)

# Stage 2 has 27 blocks, so num_layers = 3 + 27 / 3 = 12; stage i trains at 0.9^(12 - i) of the heads' rate,
# stem and downsampling layers at 0.9^13 = 0.25.
