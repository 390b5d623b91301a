"""Results of two ranks against those of one process: weights, gradients and metrics.

The file is its own worker: torchrun runs it with a folder as argument. Each rank first computes what it can
as one process, before the group is there.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import dist
from mmengine.dataset import pseudo_collate
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from ranks import make_noise, run_as_rank, torchrun
from repository import ROOT

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine import runner as runners
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.evaluation.metrics import SegmentationRecords
from convnext_dense.support.seeding import STEP, seed_all

STEPS = 6
LAYOUTS = {"det": ("demo/mask_rcnn_shapes", "coco"), "seg": ("demo/upernet_shapes", "ade20k")}
CASES = {"batch 1": (5, 1), "batch 2": (5, 2), "fewer images than ranks": (1, 1)}  # images, batch

SEGMENTOR = """
_base_ = ["{base}"]
dims = [16, 32, 48, 64]
norm = dict(_delete_=True, type="GN", num_groups=4)  # no statistics of the batch
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(depths=[1, 1, 2, 1], dims=dims)),
    decode_head=dict(in_channels=dims, channels=16, norm_cfg=norm),
    auxiliary_head=dict(in_channels=dims[2], channels=16, norm_cfg=norm))
train_dataloader = dict(
    batch_size={batch},
    dataset=dict(pipeline=[
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]))
optim_wrapper = dict(
    _delete_=True, type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = []
train_cfg = dict(max_iters={steps}, val_interval={steps})
default_hooks = dict(checkpoint=dict(interval={steps}))
"""


# ---- the worker


def train_segmentor(folder: Path, name: str, launcher: str) -> None:
    """Six steps of two images; the checkpoint is in ``folder / name``."""
    options = TrainOptions(
        work_dir=str(folder / name),
        data_root=str(folder / "noise"),
        launcher=launcher,
        overrides={"experiment_name": name},
        seed=3,
        batch="as_is",
    )
    training_runner(str(folder / f"{name}.py"), options).train()


def detector_and_batches(folder: Path) -> tuple[torch.nn.Module, list[dict]]:
    """A small Mask R-CNN, the same wherever it is built, and a batch of one image for each rank."""
    recipe, layout = LAYOUTS["det"]
    cfg = load_config(recipe)
    init_default_scope("mmdet")
    cfg.train_dataloader.dataset.data_root = str(folder / "shapes" / layout)
    seed_all(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return model.train(), [pseudo_collate([dataset[i]]) for i in (0, 1)]


def gradients(model: torch.nn.Module, batch: dict, *key: int) -> dict[str, torch.Tensor]:
    """Gradients of one batch, by the detector's parameter names; ``model`` may be wrapped."""
    inner = getattr(model, "module", model)
    inner.zero_grad()
    seed_all(*key)
    losses = model(**inner.data_preprocessor(batch, True), mode="loss")
    inner.parse_losses(losses)[0].backward()
    return {name: param.grad.clone() for name, param in inner.named_parameters()}


def relative(found: dict, expected: dict) -> float:
    """Largest difference of a tensor, relative to its largest entry."""
    return max(
        float((found[name] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-12))
        for name, tensor in expected.items()
    )


def one_process_gradients(folder: Path) -> tuple[dict, float]:
    """Mean of what each rank's batch gives, and how far a batch of both images is from it."""
    model, batches = detector_and_batches(folder)
    own = [gradients(model, batch, 0, STEP, 0, rank) for rank, batch in enumerate(batches)]
    assert relative(own[0], own[1]) > 0.1, "the ranks' gradients differ"
    mean = {name: (own[0][name] + own[1][name]) / 2 for name in own[0]}
    both = {key: [batch[key][0] for batch in batches] for key in batches[0]}
    return mean, relative(gradients(model, both, 0, STEP, 0, 0), mean)


def noisy_truth(self, batch_inputs, batch_data_samples, rescale=True):
    """In place of a trained detector: its ground truth, moved by an amount that the image decides."""
    for sample in batch_data_samples:
        rng = torch.Generator().manual_seed(sample.img_id)
        truth = sample.gt_instances
        found = type(truth)(
            bboxes=truth.bboxes.clone() + 4 * torch.randn(truth.bboxes.shape, generator=rng),
            labels=truth.labels.clone(),
            scores=torch.rand(len(truth), generator=rng),
            masks=torch.from_numpy(np.roll(truth.masks.masks, sample.img_id, axis=2).astype(bool)),
        )
        sample.pred_instances = found
    return batch_data_samples


def evaluate(folder: Path, kind: str, launcher: str) -> dict:
    """Metrics of each of :data:`CASES`, and the images that they come from."""
    from mmdet.evaluation.metrics import CocoMetric  # needs the ops that convnext_dense.mm offers
    from mmdet.models.detectors import MaskRCNN

    recipe, layout = LAYOUTS[kind]
    found, compute = {}, CocoMetric.compute_metrics

    def noted(self, results):
        images.extend(prediction["img_id"] for _, prediction in results)
        return compute(self, results)

    CocoMetric.compute_metrics, MaskRCNN.predict = noted, noisy_truth
    for case, (count, batch) in CASES.items():
        images = []
        overrides = {
            "experiment_name": f"{kind} {launcher} {case}",
            "test_dataloader.batch_size": batch,
            "test_dataloader.dataset.indices": count,
        }
        if kind == "seg":
            records = dict(type=SegmentationRecords.__name__, folder=str(folder / f"labels {launcher}"))
            overrides["test_evaluator"] = [dict(type="IoUMetric", iou_metrics=["mIoU"]), records]
        options = Options(
            work_dir=str(folder / "test"),
            data_root=str(folder / "shapes" / layout),
            launcher=launcher,
            overrides=overrides,
        )
        runner = runners.testing_runner(recipe, str(folder / f"{kind}.pth"), options)
        metrics = {name: float(value) for name, value in runner.test().items()}
        if kind == "seg":
            images = [Path(scene["image"]).name for scene in runner.test_evaluator.metrics[1].scenes]
        found[case] = dict(metrics=metrics, images=images)
    CocoMetric.compute_metrics = compute
    return found


def worker(folder: Path) -> None:
    """Compute what one process gives, one half on each rank; then what two ranks give."""
    rank = int(os.environ["RANK"])
    kind = ("det", "seg")[rank]
    (folder / f"one_{kind}.json").write_text(json.dumps(evaluate(folder, kind, "none")))
    mean, other = one_process_gradients(folder)
    if rank == 0:
        train_segmentor(folder, "one", "none")
    train_segmentor(folder, "two", "pytorch")  # which opens the group
    model, batches = detector_and_batches(folder)
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    both = gradients(wrapped, batches[rank], 0, STEP, 0, rank)
    report = dict(difference=relative(both, mean), of_one_batch=other, world_size=dist.get_world_size())
    (folder / f"gradients_{rank}.json").write_text(json.dumps(report))
    for kind in LAYOUTS:
        found = evaluate(folder, kind, "pytorch")
        if rank == 0:
            (folder / f"two_{kind}.json").write_text(json.dumps(found))


# ---- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two ranks left their results."""
    folder = tmp_path_factory.mktemp("two_ranks")
    make_noise(folder / "noise", val=1)
    make_shapes(folder / "shapes", train=2, val=5, size=96)
    for name, batch in (("one", 2), ("two", 1)):
        base = ROOT / "configs" / f"{LAYOUTS['seg'][0]}.py"
        (folder / f"{name}.py").write_text(SEGMENTOR.format(base=base, batch=batch, steps=STEPS))
    for kind, (recipe, _) in LAYOUTS.items():
        torch.manual_seed(0)
        cfg = load_config(recipe)
        init_default_scope(cfg.default_scope)
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, folder / f"{kind}.pth")
    torchrun(__file__, folder, folder=folder)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_segmentor_ends_with_the_weights_of_one_process(folder):
    """Two ranks with one image each against one process with two; norms have no statistics of the batch."""
    files = [folder / name / f"iter_{STEPS}.pth" for name in ("one", "two")]
    one, two = (torch.load(path, weights_only=False)["state_dict"] for path in files)
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, rtol=0, atol=1e-6), name


def test_that_training_moved_the_weights(folder):
    """Every momentum is above zero, so the test above does not compare two initialisations."""
    trained = torch.load(folder / "one" / f"iter_{STEPS}.pth", weights_only=False)
    momenta = [state["momentum_buffer"] for state in trained["optimizer"]["state"].values()]
    assert len(momenta) == sum("num_batches" not in name for name in trained["state_dict"])
    assert all(momentum.abs().max() > 1e-4 for momentum in momenta)


@pytest.mark.parametrize("rank", [0, 1])
def test_detector_gradients_are_the_mean_of_the_ranks(folder, rank):
    """Samplers and the normalisation of losses are per rank: a batch of both images gives others."""
    report = read(folder / f"gradients_{rank}.json")
    assert report["world_size"] == 2
    assert report["difference"] < 1e-6
    assert report["of_one_batch"] > 1e-3


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_evaluation_counts_each_image_once(folder, kind, case):
    one, two = (read(folder / f"{ranks}_{kind}.json")[case] for ranks in ("one", "two"))
    assert len(set(one["images"])) == len(one["images"]) == CASES[case][0]
    assert two["images"] == one["images"]
    assert two["metrics"] == one["metrics"]
    main = {"det": "coco/segm_mAP", "seg": "mIoU"}[kind]
    assert 0.01 < one["metrics"][main] < 99, "a meaningful metric"


if __name__ == "__main__":
    run_as_rank(worker)
