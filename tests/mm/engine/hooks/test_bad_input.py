"""Files that training left out are logged once; ``test_repair`` has whole runs."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.structures import BaseDataElement
from torch import nn

from convnext_dense.mm.engine.hooks import BadInputHook


@pytest.fixture
def runner(tmp_path):
    model = nn.Module()
    model.data_preprocessor = nn.Identity()
    logger = logging.getLogger("bad input")
    return SimpleNamespace(model=model, logger=logger, rank=0, world_size=1, work_dir=str(tmp_path))


def test_each_file_is_logged_once_up_to_a_number_and_all_are_listed(runner, tmp_path, caplog):
    hook = BadInputHook(named=2)
    hook.before_train(runner)
    with caplog.at_level(logging.WARNING):
        for names in ("a", "ab", "", "c"):
            notes = tuple((name, f"{name} is empty") for name in names)
            sample = BaseDataElement(metainfo=dict(bad_input=notes) if notes else {})
            runner.model.data_preprocessor({"data_samples": [[sample]]})
            hook.after_train_iter(runner, 0)
        hook.after_train_epoch(runner)
        hook.after_train_epoch(runner)  # nothing new
        hook.after_train(runner)
    place = "bad input, another image takes its place: "
    assert [record.getMessage() for record in caplog.records] == [
        f"{place}a is empty",
        f"{place}b is empty",
        "further bad input is counted but no longer logged here",
        "3 images could not be used and were replaced by others: first a is empty; all of them: "
        f"{tmp_path}/bad_input.txt",
    ]
    assert (tmp_path / "bad_input.txt").read_text() == "a is empty\nb is empty\nc is empty\n"
    assert not runner.model.data_preprocessor._forward_pre_hooks
