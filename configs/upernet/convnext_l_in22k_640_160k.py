"""UperNet, ConvNeXt-L pretrained on ImageNet-22K, ADE20K 160k at 640 pixels.

Paper      Table 4: mIoU 53.2 at one scale, 53.7 at several + flip; 2458 GMACs at 640x2560; 235 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_l_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = "./convnext_b_in22k_640_160k.py"

model = dict(
    backbone=dict(
        arch="large",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth"),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)

# Released without fp16.
optim_wrapper = dict(type="OptimWrapper")
