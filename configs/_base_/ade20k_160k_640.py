"""The ADE20K recipes with crops of 640 pixels: data, and both ways of testing."""

_base_ = ["./ade20k_160k.py", "mmseg::_base_/datasets/ade20k_640x640.py"]

crop_size = (640, 640)
train_dataloader = dict(batch_size=2)

# ---- one scale: windows that overlap by a third, over images resized to (2560, 640)
model = dict(
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(mode="slide", crop_size=crop_size, stride=(426, 426)),
)

# ---- several scales and flip: as released, ratios of (2560, 640); mmseg's are ratios of the image's own size
ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(int(2560 * r), int(640 * r)), keep_ratio=True) for r in ratios],
            [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]
