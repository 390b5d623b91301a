"""A loss or gradient that is not finite stops training before the weights change, and its origin is named."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import nn

from convnext_dense.mm.engine.nan_guard import NotFiniteError, check_updates, explained, plain


class Net(BaseModel):
    """Two layers; what breaks is the input, a weight, or the derivative of a root at zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode="loss"):
        y = self.second(self.first(inputs[0]).relu())
        if not inputs[1]:
            return {"loss_y": y.square().mean()}
        return {"loss_y": y.square().mean(), "loss_root": (0 * y).abs().sqrt().mean() + inputs[1]}


@pytest.fixture
def runner(tmp_path):
    torch.manual_seed(0)
    model = Net()
    groups = [
        dict(params=list(model.first.parameters()), name="layer_0_decay", lr=0.1),
        dict(params=list(model.second.parameters()), name="layer_1_decay", lr=0.2),
    ]
    wrapper = OptimWrapper(torch.optim.AdamW(groups), clip_grad=dict(max_norm=1.0))
    check_updates(wrapper)
    return SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=6, rank=0, world_size=1, work_dir=str(tmp_path)
    )


def step(runner, x, root=0.0):
    sample = dict(img_path="images/7.png")
    batch = {
        "inputs": [torch.tensor(x), torch.tensor(root)],
        "data_samples": [sample],
    }
    try:
        runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
    except NotFiniteError as error:
        raise explained(error, runner, batch, (0, 1, 6, 0)) from None


def weights(runner):
    return torch.cat([p.detach().flatten().clone() for p in runner.model.parameters()])


def test_a_finite_step_is_as_without_the_guard(runner, tmp_path):
    plain_copy = Net()
    plain_copy.load_state_dict(runner.model.state_dict())
    wrapper = OptimWrapper(torch.optim.AdamW([
        dict(params=list(plain_copy.first.parameters()), lr=0.1),
        dict(params=list(plain_copy.second.parameters()), lr=0.2),
    ]), clip_grad=dict(max_norm=1.0))  # fmt: skip
    step(runner, [1.0, 2.0])
    plain_copy.train_step({"inputs": [torch.tensor([1.0, 2.0]), torch.tensor(0.0)]}, wrapper)
    assert torch.equal(weights(runner), torch.cat([p.detach().flatten() for p in plain_copy.parameters()]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("x", "root", "weight", "where"),
    [
        ([float("nan"), 1.0], 0.0, {}, "the batch itself is not finite"),
        ([9.0, 9.0], 0.0, {"first.weight": 1e38}, "finite is that of first (group layer_0_decay, lr 0.1)"),
        ([1e30, 1e30], 0.0, {}, "first output that is not finite is that of the loss loss_y."),
        ([1.0, 1.0], 0.0, {"second.weight": float("inf")}, "second.weight (group layer_1_decay, lr 0.2)"),
        ([1.0, 1.0], 1.0, {}, "nearest to the loss is that of second.bias (group layer_1_decay, lr 0.2)"),
    ],
)  # fmt: skip
def test_what_broke_first_is_named_and_the_weights_stay(runner, tmp_path, x, root, weight, where):
    for name, value in weight.items():
        runner.model.get_parameter(name).data.fill_(value)
    before = weights(runner)
    with pytest.raises(NotFiniteError, match=r"step 7: .*--resume --seed N") as error:
        step(runner, x, root)
    assert where in str(error.value)
    assert torch.equal(weights(runner), before)
    folder = tmp_path / "not_finite_step_7"
    dumped = torch.load(folder / "batch.pth", weights_only=True)
    torch.testing.assert_close(dumped["batch"]["inputs"][0], torch.tensor(x), equal_nan=True)
    assert dumped["key"] == [0, 1, 6, 0]
    assert "images/7.png" in (folder / "report.txt").read_text()


class OwnWrapper(OptimWrapper):
    """A user's class with a method and arguments of its own."""

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        self.seen = type(self).__name__, float(loss.detach()), step_kwargs
        super().update_params(loss, step_kwargs, zero_kwargs)


def test_a_wrapper_of_the_users_own_is_checked_and_stays_itself():
    model = nn.Linear(1, 1)
    wrapper = OwnWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    check_updates(wrapper)
    wrapper.update_params(model(torch.ones(1)).sum() * 0 + 2, step_kwargs={})
    assert wrapper.seen == ("OwnWrapper", 2.0, {})
    before = model.weight.item()
    for loss in (model(torch.ones(1)).sum() + float("inf"), model.weight.sum() * float("nan")):
        with pytest.raises(NotFiniteError, match=r"the loss is (inf|nan)"):
            wrapper.update_params(loss)
    assert model.weight.item() == before and wrapper.seen[1] == 2.0


class Scaled(OptimWrapper):
    """What mmengine's ``AmpOptimWrapper``, which needs a GPU, does with torch's scaler."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_skips_steps_that_overflow(fused):
    """Expected while it looks for its scale; a fused optimizer is called with such gradients."""
    model = nn.Linear(1, 1)
    wrapper = Scaled(torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused))
    check_updates(wrapper)
    before = model.weight.item()
    wrapper.update_params(model.weight.sum() * 1e36)  # finite, and not after the scaling
    assert model.weight.item() == before and wrapper.loss_scaler.get_scale() == 2.0**15
    wrapper.update_params(model.weight.sum())
    assert model.weight.item() != before
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        wrapper.update_params(model.weight.sum() * float("nan"))


def test_of_several_batches_each_is_checked():
    """Gradients are checked at the step alone, losses at each batch."""
    model = nn.Linear(1, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    check_updates(wrapper)
    before = model.weight.item()
    wrapper.update_params(model(torch.ones(1)).sum())
    assert model.weight.item() == before, "the first of two"
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        wrapper.update_params(model.weight.sum() * float("nan"))
    root = (0 * model.weight).sum().abs().sqrt()  # finite, with a derivative that is not
    with pytest.raises(NotFiniteError, match="the gradient is not finite"):
        wrapper.update_params(root)
    assert model.weight.item() == before


def test_a_batch_is_written_as_tensors_and_plain_values():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import PolygonMasks

    import convnext_dense.mm  # noqa: F401  # mmdet needs its ops

    sample = DetDataSample(metainfo=dict(img_path="a.jpg", scale_factor=(np.float64(0.5), 2)))
    masks = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 4])]], 8, 8)
    sample.gt_instances = InstanceData(bboxes=torch.ones(1, 4), masks=masks)
    found = plain({"data_samples": [sample], "inputs": [torch.zeros(3, 2, 2, dtype=torch.uint8)]})
    found = found["data_samples"][0]
    assert found["img_path"] == "a.jpg" and found["scale_factor"] == [0.5, 2]
    assert torch.equal(found["gt_instances"]["bboxes"], torch.ones(1, 4))
    assert found["gt_instances"]["masks"].shape == (1, 8, 8)
