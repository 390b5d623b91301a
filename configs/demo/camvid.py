"""UperNet with a small ConvNeXt on real street scenes: from scratch on one CPU core in minutes.

Data     --data-root FOLDER with images/{training,validation}/NAME.png and annotations/ of the same names;
         label maps hold 0 to 10 for the classes below and 11 for unlabelled pixels
Train    tools/train.py configs/demo/camvid.py --data-root FOLDER
Expect   see docs/own_data.md, which also says what to change for other classes
"""

_base_ = ["./upernet_shapes.py"]

# ---- classes: the position in this list is the value in the label maps
metainfo = dict(
    classes=(
        *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
        *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
    ),
    palette=[
        *([128, 180, 230], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0]),
        *([192, 128, 128], [64, 64, 128], [64, 0, 128], [220, 120, 0], [0, 128, 192]),
    ],
)
num_classes = 11
ignore_index = 11  # the default is 255, the better choice for new label maps
crop_size = (240, 240)
model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=ignore_index),
    decode_head=dict(num_classes=num_classes, ignore_index=ignore_index),
    auxiliary_head=dict(num_classes=num_classes, ignore_index=ignore_index),
)
val_evaluator = dict(ignore_index=ignore_index)
test_evaluator = val_evaluator

# ---- data: crops of 240 pixels from images at 0.7 to 1.4 of their size, so that none needs padding
dataset = dict(
    data_root="data/camvid",
    metainfo=metainfo,
    img_suffix=".png",
    reduce_zero_label=False,  # value 0 is a class here; it means "unlabelled" in ADE20K
)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomResize", scale=(480, 360), ratio_range=(0.7, 1.4), keep_ratio=True),
            dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75, ignore_index=ignore_index),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader

# ---- schedule: 600 steps of 4 crops are 59 passes over 41 images
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=30, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
