"""The config of a work folder is enough for the toolboxes' own tools and inference."""

import subprocess
import sys

from mmengine.config import Config

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_config
from convnext_dense.mm.config.toolboxes import for_toolboxes


def test_imports_and_the_test_pipeline_are_added():
    data = dict(ann_file="a.json", pipeline=[dict(type="LoadImageFromFile")])
    cfg = Config(dict(test_dataloader=dict(dataset=dict(dataset=data))))
    for_toolboxes(cfg)
    assert cfg.custom_imports.imports == ["convnext_dense.mm"] and not cfg.custom_imports.allow_failed_imports
    assert cfg.test_pipeline == data["pipeline"]


def test_what_the_config_has_stays():
    cfg = Config(dict(test_pipeline=[1], custom_imports=dict(imports="mine", allow_failed_imports=True)))
    for_toolboxes(cfg)
    assert cfg.test_pipeline == [1] and cfg.custom_imports.imports == ["convnext_dense.mm", "mine"]
    before = cfg.to_dict()
    for_toolboxes(cfg)
    assert cfg.to_dict() == before


# reads a work folder's config as tools/train.py and inference of the toolboxes do, in a process of its own
FOREIGN = """
import sys
from mmengine.config import Config
from mmengine.registry import HOOKS, LOOPS, RUNNERS
det, seg = map(Config.fromfile, sys.argv[1:])
from mmdet.apis import inference_detector, init_detector
from mmseg.apis import inference_model, init_model
for cfg in (det, seg):
    assert RUNNERS.get(cfg.runner_type) and LOOPS.get(cfg.train_cfg.type)
    for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]:
        assert HOOKS.get(hook.type) or HOOKS.get(f"{cfg.default_scope}.{hook.type}")
import numpy as np
image = np.zeros((64, 64, 3), np.uint8)
model = init_detector(det, device="cpu", palette="random")
found = len(inference_detector(model, [image, image]))
print(found, *inference_model(init_model(seg, device="cpu"), image).seg_logits.data.shape)
"""


def test_the_toolboxes_work_with_the_config_of_a_run(tmp_path):
    make_shapes(tmp_path / "shapes", train=2, val=2, size=64)
    paths = []
    for recipe, data in [("demo/mask_rcnn_shapes", "coco"), ("demo/upernet_shapes", "ade20k")]:
        data_root = str(tmp_path / "shapes" / data)
        options = TrainOptions(work_dir=str(tmp_path / data), data_root=data_root, device="cpu")
        paths.append(str(tmp_path / f"{data}.py"))
        training_config(recipe, options)[0].dump(paths[-1])
    done = subprocess.run([sys.executable, "-c", FOREIGN, *paths], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["2 4 64 64"], done.stderr
