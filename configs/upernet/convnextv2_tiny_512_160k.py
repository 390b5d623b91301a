"""UperNet, ConvNeXt V2-T, ADE20K 160k at 512 pixels.

Paper      none: V2 Table 7 has B, L and H; 938 GMACs at 512x2048 and 60 M parameters, counted here
Pretrained ImageNet-1K by FCMAE, then fine-tuned with labels, 224 pixels (appendix A.4)
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnextv2_tiny_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
Status     not released; from appendix A.4 like V2-B; swept values are ours. Not trained here.
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        use_grn=True,  # V2; GRN replaces the layer scale
        drop_path_rate=0.4,  # ours, as in V1-T
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt",
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# A.4 says "layer-wise", where V1 was stage-wise. Rate 1e-4 and decay 0.9 are ours, as in V1-T. Stage 2 has 9
# blocks, so num_layers = 3 + 9 / 3 = 6; the stem trains at 0.9^7 = 0.48 of the heads' rate.
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.9),
)

# ---- several scales (A.4) and flip (ours)
ratios = (0.75, 0.875, 1.0, 1.125, 1.25)
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(int(2048 * r), int(512 * r)), keep_ratio=True) for r in ratios],
            [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]
