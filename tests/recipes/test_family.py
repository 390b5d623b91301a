"""Recipes beyond the paper's tables: ConvNeXt V2 from its appendix, and isotropic ConvNeXt."""

import ast
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from namings import ENTRIES, MICRO, random_state
from published import coco_tiny, config, run_command
from repository import ROOT

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense import ARCHS, list_configs
from convnext_dense.mm.bench.complexity import compare, countable_rows
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.config.lr_plan import run_length
from convnext_dense.mm.models.complexity import config_complexity
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.results import paper

COCO_V2 = [f"mask_rcnn/convnextv2_{size}_3x" for size in ("atto", "tiny", "base")]
ADE20K_V2 = [f"upernet/convnextv2_{size}_512_160k" for size in ("tiny", "base")]
ISOTROPIC = ["mask_rcnn/isotropic_s_3x", "upernet/isotropic_s_512_160k"]
V2, ALL = COCO_V2 + ADE20K_V2, COCO_V2 + ADE20K_V2 + ISOTROPIC
V1 = {"mask_rcnn": "mask_rcnn/convnext_t_3x", "upernet": "upernet/convnext_t_512_160k"}

# Woo et al., CVPR 2023, appendix A.3 and A.4: what is given, and the values that were swept.
A3 = dict(
    epochs=36, batch=32, lr={1e-4}, weight_decay=0.05, decay={0.9, 0.95}, drop_path={0.2, 0.3, 0.4, 0.5}
)
A4 = dict(
    iterations=160_000,
    batch=16,
    lr={1e-4, 2e-4, 3e-4},
    weight_decay=0.05,
    decay={0.8, 0.9},
    drop_path={0.1, 0.2, 0.3, 0.4},
)
RELEASE = "https://dl.fbaipublicfiles.com/convnext/"
GPUS = 8

# Groups by hand: blocks of stage 2, or of the only stage, over three; and 3 before a stage 2.
NUM_LAYERS = {"atto": 3 + 2, "tiny": 3 + 3, "base": 3 + 9, "isotropic_small": 6}


def size_of(name: str) -> str:
    return "isotropic_small" if name in ISOTROPIC else name.split("_")[2 if "mask" in name else 1]


def plain(node):
    """A piece of a config without the scopes that inheritance writes into it; tuples as lists."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key != "_scope_"}
    return [plain(item) for item in node] if isinstance(node, list | tuple) else node


def without(node: dict, *paths: str) -> dict:
    """A plain copy without the entries at paths such as ``decode_head.in_channels``."""
    node = plain(node)
    for path in paths:
        *parents, last = path.split(".")
        owner = node
        for key in parents:
            owner = owner[key]
        owner.pop(last, None)
    return node


def test_every_recipe_is_listed():
    assert set(ALL) <= set(list_configs())


@pytest.mark.parametrize("name", V2)
def test_v2_follows_its_appendix(name):
    cfg, given = config(name), A3 if name in COCO_V2 else A4
    if name in COCO_V2:
        assert cfg.train_cfg.max_epochs == given["epochs"]
    else:
        assert cfg.train_cfg.max_iters == given["iterations"]
        assert cfg.model.data_preprocessor["size"] == (512, 512)
    assert cfg.train_dataloader.batch_size * GPUS == given["batch"] == cfg.auto_scale_lr.base_batch_size
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer.type == "AdamW" and wrapper.optimizer.weight_decay == given["weight_decay"]
    assert wrapper.optimizer.lr in given["lr"]
    assert wrapper.paramwise_cfg.decay_rate in given["decay"]
    assert wrapper.paramwise_cfg.decay_type == "layer_wise"
    assert cfg.model.backbone.drop_path_rate in given["drop_path"]


@pytest.mark.parametrize("name", V2)
def test_v2_starts_from_the_weights_of_its_appendix(name):
    """COCO from masked autoencoding alone (A.3), ADE20K from its fine-tuned classifier (A.4)."""
    file = "pt_only/convnextv2_{}_1k_224_fcmae.pt" if name in COCO_V2 else "im1k/convnextv2_{}_1k_224_ema.pt"
    url = f"{RELEASE}convnextv2/{file.format(size_of(name))}"
    assert config(name).model.backbone.init_cfg == dict(type="Pretrained", checkpoint=url)


@pytest.mark.parametrize(
    ("name", "naming"),
    [(COCO_V2[0], "facebook_v2_fcmae_released"), (ADE20K_V2[0], "facebook_v2_classifier")],
)
def test_the_backbone_of_v2_takes_files_of_that_kind_whole(name, naming, tmp_path):
    state = random_state(ENTRIES[naming]["keys"])
    torch.save({"model": state}, tmp_path / "w.pt")
    cfg = config(name)
    cfg.model.backbone.arch = MICRO
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / "w.pt")
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    values = torch.cat([value.flatten() for value in state.values()])
    loaded = [value for key, value in backbone.state_dict().items() if not key.startswith("norm")]
    assert len(loaded) > 50
    assert all(torch.isin(value, values).all() for value in loaded)


@pytest.mark.parametrize("name", ALL)
def test_all_else_is_as_in_v1s_recipe(name):
    cfg, v1 = config(name), config(V1[name.split("/")[0]])
    own = ["backbone", "neck", "decode_head.in_channels", "auxiliary_head.in_channels"]
    if name in ISOTROPIC:
        own.append("data_preprocessor.test_cfg")
    if "mask_rcnn" in name:
        own[2:] = ["test_cfg.rcnn.nms", "data_preprocessor.batch_augments"] if name in COCO_V2 else []
    assert without(cfg.model, *own) == without(v1.model, *own)
    for key in ("param_scheduler", "train_cfg", "test_dataloader", "val_evaluator", "default_hooks"):
        assert plain(cfg[key]) == plain(v1[key]), key
    if name not in COCO_V2:  # whose images are cut otherwise, four per GPU
        assert plain(cfg.train_dataloader) == plain(v1.train_dataloader)
    if name not in ADE20K_V2:  # tested at other scales
        assert plain(cfg.get("tta_pipeline")) == plain(v1.get("tta_pipeline"))
    assert cfg.optim_wrapper.type == v1.optim_wrapper.type == "AmpOptimWrapper"
    if name in ISOTROPIC:
        assert cfg.optim_wrapper.optimizer == v1.optim_wrapper.optimizer
        assert cfg.optim_wrapper.paramwise_cfg.decay_rate == v1.optim_wrapper.paramwise_cfg.decay_rate
        assert cfg.model.backbone.drop_path_rate == v1.model.backbone.drop_path_rate
        released = paper.WEIGHTS["imagenet/convnext_s_isotropic_224"]
        assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint=released)


@pytest.mark.parametrize("name", ALL)
def test_groups_follow_from_the_depths(name):
    cfg = config(name)
    model = build_on_meta(cfg)
    parameters = dict(model.named_parameters())
    assert any(".grn." in key for key in parameters) == (name in V2)
    assert not any(key.endswith(".gamma") and ".grn." not in key for key in parameters)  # no layer scale
    groups = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"}).optimizer.param_groups
    found = {key: (group["layer_id"], group) for group in groups for key in group["param_names"]}
    assert set(found) == set(parameters)
    last = NUM_LAYERS[size_of(name)] + 1
    rate = cfg.optim_wrapper.paramwise_cfg.decay_rate
    for key, (layer, group) in found.items():
        _, *path = key.split(".")
        if not key.startswith("backbone.") or path[0].startswith("norm"):
            expected = last
        elif path[0] == "stem" or path[:2] == ["downsample_layers", "0"]:
            expected = 0
        elif path[0] == "blocks":
            expected = 1 + int(path[1]) // 3
        else:  # a stage, or the downsampling layer in front of it
            block = int(path[2]) if path[0] == "stages" else 0
            expected = [1, 2, 3 + block // 3, last - 1][int(path[1])]
        assert layer == expected, key
        assert group["lr"] == pytest.approx(1e-4 * rate ** (last - layer), rel=1e-9), key
        flat = parameters[key].dim() == 1 or key.endswith(".bias") or ".grn." in key
        assert group["weight_decay"] == (0.0 if flat else 0.05), key


@pytest.mark.parametrize("row", [*paper.COCO_V2, *paper.ADE20K_V2], ids=lambda row: row.name)
def test_v2s_tables(row):
    """The base recipe, made large and huge, has the printed MACs and parameters."""
    coco = isinstance(row, paper.CocoRow)
    cfg = config(COCO_V2[-1] if coco else ADE20K_V2[-1])
    arch = {"B": "base", "L": "large", "H": "huge"}[row.backbone[-1]]
    dims = list(ARCHS[arch].dims)
    cfg.model.backbone.arch = arch
    if coco:
        cfg.model.neck.in_channels = dims
    else:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = dims, dims[2]
        cfg.model.data_preprocessor["size"] = (row.crop, row.crop)
    counted = config_complexity(cfg)
    assert counted.macs_g == pytest.approx(row.macs_g, abs=1)
    assert row.params_m is None or counted.params_m == pytest.approx(row.params_m, abs=0.5)


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_opens_with_what_is_known(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    method, model = text.splitlines()[0].split(", ")[:2]
    assert method == ("Mask R-CNN" if "mask_rcnn" in name else "UperNet")
    letter = {"atto": "A", "tiny": "T", "base": "B"}.get(size_of(name))
    assert model.startswith(f"ConvNeXt V2-{letter}" if letter else "isotropic ConvNeXt-S")
    assert f"tools/train.py {name} --launcher pytorch" in text and "Not trained here." in text
    row = paper.ROWS.get(name)
    if row is None:
        counted = config_complexity(config(name))
        at = "1280x800" if "mask_rcnn" in name else "512x2048"
        figures = f"{counted.macs_g:.0f} GMACs at {at} and {counted.params_m:.0f} M parameters, counted here"
    elif isinstance(row, paper.CocoRow):
        ap = f"box AP {row.box.ap}, mask AP {row.mask.ap}"
        figures = f"V2 Table 6 (published): {ap}; {row.macs_g} GMACs at 1280x800"
    else:
        macs = f"{row.macs_g} GMACs at 512x2048; {row.params_m} M parameters"
        figures = f"V2 Table 7 (published): mIoU {row.miou_ms} at several scales; {macs}"
    assert figures in text
    assert (row is not None) == ("_base_" in name)
    status = text[text.index("Status") :]
    assert "appendix A." in status if size_of(name) in ("tiny", "base") else "ours" in status


# ------------------------------------------------------------------------------------ V2's data and tests


def test_large_scale_jittering():
    """1024 x 0.1 to 2.0, cut to 1024: of an image of 640x480 pixels the longer side."""
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    cfg = config(COCO_V2[-1])
    init_default_scope("mmdet")
    pipeline = Compose(cfg.train_pipeline[2:-1])  # neither load nor pack
    np.random.seed(0)
    sides = []
    for _ in range(120):
        results = pipeline(
            dict(
                img=np.zeros((480, 640, 3), np.uint8),
                img_shape=(480, 640),
                ori_shape=(480, 640),
                gt_bboxes=HorizontalBoxes(torch.tensor([[0.0, 0.0, 640.0, 480.0]])),
                gt_bboxes_labels=np.zeros(1, np.int64),
                gt_ignore_flags=np.zeros(1, bool),
                gt_masks=BitmapMasks(np.ones((1, 480, 640), np.uint8), 480, 640),
            )
        )
        height, width = results["img"].shape[:2]
        assert results["gt_masks"].masks.shape == (1, height, width)
        assert results["gt_masks"].masks.all()  # box and mask cover the image before and after
        box = results["gt_bboxes"].tensor[0]
        torch.testing.assert_close(box, torch.tensor([0.0, 0.0, width, height]), rtol=0, atol=1e-3)
        assert abs(height - min(width * 0.75, 1024)) <= 1 or width == 1024
        sides.append(width)
    assert 102 <= min(sides) < 200 and max(sides) == 1024
    # ratios are uniform over [0.1, 2.0], and those from 1 on are cut: 1.0 / 1.9 of the images
    assert np.mean(np.array(sides) == 1024) == pytest.approx(1 / 1.9, abs=0.12)


def test_batches_are_padded_to_the_crop_in_training_alone():
    cfg = config(COCO_V2[-1])
    init_default_scope("mmdet")
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    for training, size in ((True, (1024, 1024)), (False, (128, 128))):
        batch = preprocess(detection_batch(100), training=training)
        assert batch["inputs"].shape == (2, 3, *size)
        assert (batch["inputs"][:, :, 100:] == 0).all()
    masks = preprocess(detection_batch(100), training=True)["data_samples"][0].gt_instances.masks
    assert masks.masks.shape == (2, 1024, 1024) and not masks.masks[:, 100:].any()


def test_soft_nms_lowers_scores_instead_of_dropping_boxes():
    """Two boxes that overlap by 60%: the second keeps 1 - 0.6 of its score, where V1 drops it."""
    from mmdet.models.layers import multiclass_nms

    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 60.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])  # one class and the background
    kept = {}
    for name in (COCO_V2[-1], V1["mask_rcnn"]):
        test = config(name).model.test_cfg.rcnn
        dets, _ = multiclass_nms(boxes, scores, test.score_thr, test.nms, test.max_per_img)
        kept[name] = dets[:, 4].tolist()
    assert kept[COCO_V2[-1]] == pytest.approx([0.9, 0.8 * (1 - 0.6)], abs=1e-5)
    assert kept[V1["mask_rcnn"]] == pytest.approx([0.9])


def test_several_scales_are_those_of_the_appendix():
    steps = config(ADE20K_V2[-1]).tta_pipeline[1].transforms
    ratios = [0.75, 0.875, 1.0, 1.125, 1.25]
    assert plain([step["scale"] for step in steps[0]]) == [[2048 * r, 512 * r] for r in ratios]
    v1 = config(V1["upernet"]).tta_pipeline[1].transforms
    assert plain(steps[1:]) == plain(v1[1:])


# ------------------------------------------------------------------------------------------------ steps


def detection_batch(height: int, width: int | None = None) -> dict:
    """Two images of noise with two objects each, as the data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(0)
    shape = (height, width or height)
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [20.0, 30.0, 70.0, 70.0]])
        masks = torch.zeros(2, *shape, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=0)
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 79]), masks=BitmapMasks(masks.numpy(), *shape)
        )
        samples.append(sample)
    images = [torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def segmentation_batch(height: int, width: int) -> dict:
    """Two images of noise with all 150 labels, as the data loader gives them."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, height, width), generator=generator))
        samples.append(sample)
    images = [torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def small(name: str, crop: int) -> Config:
    """The recipe on one CPU, with small images, few proposals, and no weights to download."""
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    if "upernet" in name:
        cfg.model.data_preprocessor["size"] = (crop, crop)
        cfg.model.test_cfg.update(crop_size=(crop, crop), stride=(crop * 2 // 3, crop * 2 // 3))
        return cfg
    if name in COCO_V2:
        cfg.model.data_preprocessor.batch_augments[0].size = (crop, crop)
    cfg.model.train_cfg.rcnn.sampler.num = 16
    cfg.model.train_cfg.rpn_proposal.max_per_img = cfg.model.test_cfg.rpn.max_per_img = 30
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    return cfg


def step(cfg: Config, batch: dict) -> tuple[torch.nn.Module, float]:
    """The model after a step of its recipe's optimizer, gradients checked; and the loss before it."""
    torch.manual_seed(0)
    cfg.model.backbone.drop_path_rate = 0.0  # of so few images a block may drop every one
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"})
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode="loss"))
    wrapper.backward(loss)
    gradients = {name: param.grad for name, param in model.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()]
    inner = [name for name in gradients if name.startswith(("backbone.", "neck."))]
    assert not [name for name in inner if not gradients[name].any()]
    wrapper.step()
    assert not [name for name in inner if torch.equal(model.get_parameter(name), before[name])]
    return model.eval(), float(loss.detach())


@pytest.mark.parametrize("name", ["mask_rcnn/convnextv2_atto_3x", "mask_rcnn/isotropic_s_3x"])
def test_a_detector_trains_and_predicts(name):
    model, loss = step(small(name, crop=128), detection_batch(128))
    assert 0 < loss < 100
    predictions = model.test_step(detection_batch(75, 100))  # padded to 96x128
    assert len(predictions) == 2
    for sample in predictions:
        found = sample.pred_instances
        assert 0 < len(found) <= 10 and found.masks.shape == (len(found), 75, 100)
        assert found.bboxes.min() >= 0 and found.bboxes.max() <= 100


@pytest.mark.parametrize("name", ["upernet/convnextv2_tiny_512_160k", "upernet/isotropic_s_512_160k"])
def test_a_segmentor_trains_and_predicts(name):
    model, loss = step(small(name, crop=64), segmentation_batch(64, 64))
    # cross entropy of a uniform guess, with the auxiliary head's 0.4
    assert loss == pytest.approx(1.4 * np.log(150), rel=0.1)
    for sample in model.test_step(segmentation_batch(64, 100)):  # two windows per image
        assert sample.seg_logits.data.shape == (150, 64, 100)
        assert sample.pred_sem_seg.data.shape == (1, 64, 100)


@pytest.mark.parametrize("name", ISOTROPIC)
def test_an_isotropic_model_takes_images_of_any_size(name):
    """Where nothing pads 70x90 pixels, the sizes of the levels are rounded, and the heads still work."""
    cfg = small(name, crop=64)
    for padding in ("pad_size_divisor", "test_cfg"):
        cfg.model.data_preprocessor.pop(padding, None)
    model = MODELS.build(cfg.model).eval()
    if "mask_rcnn" in name:
        (sample, _) = model.test_step(detection_batch(70, 90))
        assert sample.pred_instances.masks.shape[1:] == (70, 90)
    else:
        model.test_cfg.mode = "whole"
        (sample, _) = model.test_step(segmentation_batch(70, 90))
        assert sample.seg_logits.data.shape == (150, 70, 90)


def test_an_isotropic_segmentor_sees_every_pixel_in_its_place():
    """Images of 70x90 pixels are padded to 80x96, five by six positions of stride 16, and cut again."""
    cfg = small("upernet/isotropic_s_512_160k", crop=64)
    cfg.model.test_cfg.mode = "whole"
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    batch = segmentation_batch(70, 90)
    image = batch["inputs"][0].flip(0).float()  # BGR -> RGB
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    image = torch.nn.functional.pad((image - mean[:, None, None]) / std[:, None, None], (0, 6, 0, 10))
    with torch.no_grad():
        logits = model.decode_head(model.extract_feat(image[None]))
        assert logits.shape == (1, 150, 20, 24)
        logits = torch.nn.functional.interpolate(logits, size=(80, 96), mode="bilinear", align_corners=False)
        (found, _) = model.test_step(batch)
    torch.testing.assert_close(found.seg_logits.data, logits[0, :, :70, :90], rtol=1e-4, atol=1e-4)


def test_v2_learns_from_real_images():
    """Jittered, cut to 128 pixels and padded: what the data loader gives is what the model takes."""
    cfg = small("mask_rcnn/convnextv2_atto_3x", crop=128)
    train = cfg.train_dataloader.dataset
    train.data_root = str(coco_tiny())
    assert [each.type for each in train.pipeline[2:4]] == ["RandomResize", "RandomCrop"]
    train.pipeline[2].scale = train.pipeline[3].crop_size = (128, 128)
    dataset = DATASETS.build(train)
    np.random.seed(0)
    samples = [dataset[i] for i in range(4)]
    assert all(max(sample["inputs"].shape) <= 128 for sample in samples)
    _, loss = step(cfg, pseudo_collate(samples))
    assert 0 < loss < 100


# ---------------------------------------------------------------------------------- what the tools show


def test_the_plan_of_an_isotropic_recipe():
    result = run_command("explain_lr", "mask_rcnn/isotropic_s_3x", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["iterations"] == 36 * 7330
    groups = plan["groups"]
    assert sorted({group["layer"] for group in groups}) == list(range(8))
    assert groups[0]["lr_peak"] == pytest.approx(1e-4 * 0.95**7)
    assert groups[0]["params"] == 3 * 16 * 16 * 384  # the stem's kernels


def test_v2_is_counted_beside_its_paper():
    assert {COCO_V2[-1], ADE20K_V2[-1]} <= set(countable_rows())
    row = compare(ADE20K_V2[-1])
    assert (row.paper_macs_g, row.paper_params_m) == (1170, 122)
    assert row.counted == config_complexity(config(ADE20K_V2[-1]))


@pytest.mark.parametrize("name", COCO_V2)
def test_an_epoch_of_v2_is_117266_images_by_32(name):
    assert run_length(config(name)) == (36 * 3665, 3665)
