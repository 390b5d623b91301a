"""Settings that cannot work, or not as they look, are corrected or said before the run."""

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.sections import check_needed
from convnext_dense.mm.config.startup import (
    check_intervals,
    drop_incomplete,
    replace_missing_test,
    set_loaders,
)
from convnext_dense.recipes import list_configs

WORKERS = dict(persistent_workers=True, prefetch_factor=4, timeout=60, multiprocessing_context="fork")


@pytest.mark.parametrize("count", [{}, {"num_workers": 0}, {"num_workers": 2}])
def test_without_workers_torch_accepts_the_loader(count):
    cfg = Config(
        {f"{split}_dataloader": dict(**WORKERS, **count, batch_size=3) for split in ("train", "val", "test")}
    )
    set_loaders(cfg)
    for split in ("train", "val", "test"):
        loader = DataLoader([1, 2, 3], **cfg[f"{split}_dataloader"])
        if count.get("num_workers"):
            assert (loader.persistent_workers, loader.prefetch_factor) == (True, 4), "left as they are"
        else:
            assert [batch.tolist() for batch in loader] == [[1, 2, 3]]


def sections(**changes):
    whole = {
        f"{split}_{part}": dict(dataset=dict(type="X"))
        for split in ("val", "test")
        for part in ("dataloader", "cfg", "evaluator")
    }
    train = dict(
        train_dataloader=dict(dataset=dict(type="X")), train_cfg=dict(), optim_wrapper=dict(optimizer=dict())
    )
    return Config({**whole, **train, "model": dict(type="X"), "param_scheduler": [], **changes})  # fmt: skip


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("part", ["dataloader", "cfg", "evaluator"])
def test_half_an_evaluation_is_named_before_training(split, part):
    with pytest.raises(
        UserError, match=rf"has no {split}_{part}: an evaluation needs .*set all three to None"
    ):
        check_needed(sections(**{f"{split}_{part}": None}), "train")
    others = {f"{split}_{other}": None for other in ("dataloader", "cfg", "evaluator")}
    check_needed(sections(**others), "train")


def test_what_a_test_does_not_use_need_not_be_complete():
    cfg = sections(val_cfg=None, train_dataloader=None)
    check_needed(cfg, "test")
    drop_incomplete(cfg, ("train", "val"))
    unused = (
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
    )
    assert [cfg[name] for name in unused] == [None] * 7
    assert cfg.test_cfg is not None
    whole = sections()
    drop_incomplete(whole, ("train", "val"))
    assert whole.to_dict() == sections().to_dict()


def run(checkpoint=None, **train_cfg):
    hooks = dict(checkpoint=checkpoint or dict(type="CheckpointHook", by_epoch=False, interval=2))
    return Config(dict(train_cfg=train_cfg, val_evaluator=dict(type="X"), default_hooks=hooks))


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (run(max_iters=10, val_interval=10), None),
        (run(max_iters=10, val_begin=20), "val_begin=20 is beyond the 10 steps: nothing is evaluated"),
        (run(max_epochs=3, val_begin=4), "val_begin=4 is beyond the 3 epochs"),
        (run(max_iters=10, val_interval=11), "val_interval=11: 10 steps are evaluated at the end"),
        (run(max_epochs=3, val_interval=2), None),
        (run(dict(type="CheckpointHook", interval=2), max_epochs=3), None),
        (run(dict(type="CheckpointKeeper", interval=2), max_iters=10), "interval=2 counts epochs"),
        (run(dict(type="CheckpointHook", interval=-1), max_iters=10), None),
        (run(dict(type="OtherHook", interval=2), max_iters=10), None),
    ],
)
def test_rare_evaluations_and_checkpoints_are_said(cfg, said):
    lines = check_intervals(cfg)
    assert lines == [] if said is None else said in lines[0]


STEPS = dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33])
POLY = dict(type="PolyLR", by_epoch=False, begin=1500, end=160_001)
WARM_UP = dict(type="LinearLR", by_epoch=False, begin=0, end=1000)


@pytest.mark.parametrize(
    ("scheduler", "length", "said"),
    [
        (STEPS, dict(max_epochs=36), None),
        (STEPS, dict(max_epochs=12), "param_scheduler.1.milestones=[9,11] param_scheduler.1.end=12"),
        (STEPS, dict(max_epochs=30), "lowers the learning rate at 27 and 33, and the run ends at 30 epochs"),
        (STEPS, dict(max_epochs=2), "milestones=[1,1]"),
        (dict(STEPS, end=10**9), dict(max_epochs=12), "--cfg-options param_scheduler.1.milestones=[10,11]"),
        (dict(STEPS, by_epoch=False), dict(max_epochs=12), None),  # counted in another unit
        (POLY, dict(max_iters=160_000), None),
        (POLY, dict(max_iters=8000), "ends at 160,001, and the run ends at 8,000 steps"),
        (dict(type="ReduceOnPlateauLR"), dict(max_epochs=12), None),
    ],
)
def test_a_schedule_that_goes_on_beyond_the_run_is_said(scheduler, length, said):
    cfg = run(**length, val_interval=1)
    cfg.param_scheduler = [WARM_UP if "max_epochs" in length else dict(WARM_UP, end=1), scheduler]
    lines = [line for line in check_intervals(cfg) if "param_scheduler" in line]
    assert lines == [] if said is None else said in lines[0]


def test_no_recipe_is_told_to_shorten_its_schedule():
    for name in list_configs():
        lines = check_intervals(load_config(name))
        assert not [line for line in lines if "param_scheduler" in line], name


def loaders(tmp_path, **files):
    return Config(
        {
            f"{split}_{part}": dict(dataset=dict(type="X", ann_file=str(tmp_path / file)), of=split)
            for split, file in files.items()
            for part in ("dataloader", "evaluator")
        }
    )


def test_a_test_set_that_is_not_there_does_not_stop_training(tmp_path):
    (tmp_path / "b.json").write_text("{}")
    cfg = loaders(tmp_path, train="a.json", val="b.json", test="c.json")
    assert replace_missing_test(cfg) == (
        f"test_dataloader: no {tmp_path / 'c.json'}, so the val set takes its place"
    )
    assert (cfg.test_dataloader, cfg.test_evaluator) == (cfg.val_dataloader, cfg.val_evaluator)
    cfg = loaders(tmp_path, train="a.json", val="c.json", test="b.json")
    assert replace_missing_test(cfg) is None and cfg.test_dataloader.of == "test"
    assert replace_missing_test(loaders(tmp_path, train="a.json", test="c.json")) is None, "nothing to take"
