"""The roadmap in mmdet: its first step against mmdet's ResNet, its recipe at several steps."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData

import convnext_dense.mm
import convnext_dense.mm.models.roadmap
from convnext_dense import CheckpointError, get_config
from convnext_dense.checkpoints.roadmap import from_resnet
from convnext_dense.mm.config.edit import set_pretrained
from convnext_dense.mm.models.complexity import config_complexity
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.models import roadmap
from convnext_dense.models.roadmap import STEPS, ResidualBlock

RECIPE = "mask_rcnn/roadmap_3x"


def recipe(monkeypatch, step: str | None = None):
    if step:
        monkeypatch.setenv("ROADMAP_STEP", step)
    return get_config(RECIPE)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Give norms random scale, shift and statistics, so that a wrong name shows."""
    torch.manual_seed(0)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            child.running_mean.normal_(std=0.2)
            child.running_var.uniform_(0.5, 1.5)
            child.weight.data.uniform_(0.5, 1.5)
            child.bias.data.normal_(std=0.2)
    return module


def mmdet_resnet50(norm_eval: bool = True) -> torch.nn.Module:
    from mmdet.models.backbones import ResNet

    torch.manual_seed(0)
    return randomise(ResNet(depth=50, style="pytorch", norm_eval=norm_eval))


@pytest.mark.parametrize("training, norm_eval", [(False, False), (True, False), (True, True)])
def test_the_first_step_is_mmdets_resnet50(training, norm_eval):
    theirs = mmdet_resnet50(norm_eval).double()  # so that only a mistake can show
    theirs.train(training)  # returns nothing
    ours = roadmap.Roadmap("resnet50", norm_eval=norm_eval).double()
    state = from_resnet(theirs.state_dict())
    assert len(state) == len(theirs.state_dict())
    ours.load_state_dict(state)  # strict: every name, every shape
    ours.train(training)
    image = torch.randn(2, 3, 97, 130, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(ours(image), theirs(image), strict=True):
            assert found.shape == expected.shape and expected.std() > 0.1
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    after = from_resnet(theirs.state_dict())
    for name, value in ours.state_dict().items():  # the running statistics, too
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("stride, c_in", [(1, 512), (2, 256)])
def test_the_depthwise_block_is_mmdets_resnext_with_a_group_per_channel(stride, c_in):
    from mmdet.models.backbones.resnext import Bottleneck

    downsample = None
    if stride == 2:
        conv = torch.nn.Conv2d(c_in, 512, 1, stride=2, bias=False)
        downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(512))
    theirs = Bottleneck(c_in, 128, groups=128, base_width=0.5, stride=stride, downsample=downsample)
    randomise(theirs).eval()
    ours = ResidualBlock(STEPS["depthwise"], c_in, 128, stride, drop_path_rate=0.0).eval()
    state = from_resnet({f"layer1.0.{key}": value for key, value in theirs.state_dict().items()})
    ours.load_state_dict({key.removeprefix("stages.0.0."): value for key, value in state.items()})
    image = torch.randn(2, c_in, 14, 15)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmengine"])
def test_the_type_builds_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"):
        assert isinstance(MODELS.build(dict(type="Roadmap", step="gelu")), roadmap.Roadmap)


def test_a_public_resnet50_is_loaded_exactly_by_init_cfg(tmp_path):
    state = {key: value for key, value in mmdet_resnet50().state_dict().items() if "num_batches" not in key}
    torch.save(
        {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "r50.pth"
    )
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "r50.pth"))
    model = MODELS.build(dict(type="Roadmap", step="resnet50", init_cfg=init_cfg))
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in from_resnet(state).items())
    with pytest.raises(CheckpointError, match=r"r50\.pth does not fit step='stage_ratio'.*--pretrained"):
        MODELS.build(dict(type="Roadmap", step="stage_ratio", init_cfg=init_cfg)).init_weights()


@pytest.mark.parametrize(
    "step, norm_eval, told", [("gelu", True, 1), ("gelu", False, 0), ("layer_norm", True, 0)]
)
def test_batch_norms_without_effect_are_reported(monkeypatch, step, norm_eval, told):
    lines = []
    monkeypatch.setattr(
        convnext_dense.mm.models.roadmap, "print_log", lambda line, **kwargs: lines.append(line)
    )
    MODELS.build(dict(type="Roadmap", step=step, norm_eval=norm_eval)).init_weights()
    assert len(lines) == told
    assert all("its batch norms do nothing; give --pretrained PATH" in line for line in lines)


# ------------------------------------------------------------------------------------------ the recipe


def test_the_recipe_at_the_last_step_is_that_of_convnext_t(monkeypatch):
    monkeypatch.delenv("ROADMAP_STEP", raising=False)
    ours, theirs = recipe(monkeypatch), get_config("mask_rcnn/convnext_t_3x")
    assert config_complexity(ours) == config_complexity(theirs)
    names = [list(build_on_meta(cfg).state_dict()) for cfg in (ours, theirs)]
    assert names[0] == names[1]
    for key in ("optim_wrapper", "param_scheduler", "train_dataloader", "test_dataloader", "train_cfg"):
        assert ours[key] == theirs[key], key
    assert ours.model.backbone.init_cfg == theirs.model.backbone.init_cfg
    for key in ("drop_path_rate", "layer_scale_init_value"):
        assert ours.model.backbone[key] == theirs.model.backbone[key]


@pytest.mark.parametrize("step", ["resnet50", "width", "kernel_11"])
def test_one_variable_chooses_the_step_of_the_whole_recipe(monkeypatch, step):
    cfg = recipe(monkeypatch, step)
    model = build_on_meta(cfg)
    assert model.backbone.step == STEPS[step]
    levels = model.extract_feat(torch.empty(1, 3, 64, 96, device="meta"))
    assert [tuple(level.shape[1:]) for level in levels][:4] == [(256, 16 >> i, 24 >> i) for i in range(4)]
    assert cfg.work_dir == f"work_dirs/roadmap_3x_{step}"
    groups = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"}).optimizer.param_groups
    scales = {name: group["lr_scale"] for group in groups for name in group["param_names"]}
    # groups of three blocks in stage 2: 6 / 3 of them at the first step, 9 / 3 at the others
    steps_to_the_heads = 6 if step == "resnet50" else 7
    assert scales["backbone.downsample_layers.0.0.weight"] == pytest.approx(0.95**steps_to_the_heads)
    assert scales["backbone.stages.3.0.conv1.weight"] == pytest.approx(0.95)
    decays = {name: group["weight_decay"] for group in groups for name in group["param_names"]}
    assert decays["backbone.stages.0.0.conv1.weight"] == 0.05
    assert decays["backbone.stages.0.0.norm1.weight"] == decays["backbone.stages.0.0.norm1.bias"] == 0


def test_an_unknown_step_names_the_others(monkeypatch):
    with pytest.raises(ValueError, match=r"step='resnet'; use one of \('resnet50', 'stage_ratio'"):
        recipe(monkeypatch, "resnet")


def synthetic_batch(size: int) -> dict:
    """Two images of noise with one object each, as the data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        mask = torch.zeros(1, size, size, dtype=torch.uint8)
        mask[:, 8:50, 8:60] = 1
        sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), img_id=0))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8.0, 60.0, 50.0]]),
            labels=torch.tensor([3]),
            masks=BitmapMasks(mask.numpy(), size, size),
        )
        samples.append(sample)
    images = [torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize("step", ["resnet50", "inverted_bottleneck", "layer_norm"])
def test_a_training_step(monkeypatch, step):
    cfg = recipe(monkeypatch, step)
    set_pretrained(cfg, "none")
    cfg.model.backbone.norm_eval = False  # random weights
    cfg.model.train_cfg.rcnn.sampler.num = 8
    cfg.model.train_cfg.rpn_proposal.max_per_img = 20
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"})
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    losses = model(**model.data_preprocessor(synthetic_batch(96), training=True), mode="loss")
    loss, _ = model.parse_losses(losses)
    wrapper.backward(loss)
    assert 0 < float(loss.detach()) < 100
    gradients = {name: param.grad for name, param in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    wrapper.step()
    moved = [name for name, param in model.named_parameters() if not torch.equal(param, before[name])]
    assert "backbone.downsample_layers.0.0.weight" in moved
    assert len([name for name in moved if name.startswith("backbone.stages.")]) > 100
