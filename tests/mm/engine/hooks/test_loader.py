"""A model that waits for images is reported once."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from convnext_dense.mm.engine.hooks import LoaderHook


@pytest.mark.parametrize(("waiting", "lines"), [(0.4, 1), (0.01, 0)])
def test_waiting_for_images_is_reported_once(waiting, lines, caplog):
    hub = MessageHub.get_instance(f"waiting {waiting}")
    runner = SimpleNamespace(
        message_hub=hub,
        logger=logging.getLogger("waiting"),
        train_dataloader=SimpleNamespace(num_workers=2),
    )
    hook = LoaderHook(window=5)
    with caplog.at_level(logging.WARNING):
        for step in range(30):
            hub.update_scalar("train/data_time", 9.0 if step < 5 else waiting)  # workers start first
            hub.update_scalar("train/time", 1.0)
            hook.after_train_iter(runner, step)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == lines
    assert not lines or ("40% of the time" in told[0] and "num_workers (now 2)" in told[0])
