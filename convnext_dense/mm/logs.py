"""Forward the core's standard-library log records to mmengine's log files and terminal."""

import logging

from mmengine.logging import print_log


class _ToMMEngine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), logger="current", level=record.levelno)


def forward_core_logs() -> None:
    """Send the records of logger ``convnext_dense`` to mmengine's current logger, once."""
    logger = logging.getLogger("convnext_dense")
    if not any(isinstance(handler, _ToMMEngine) for handler in logger.handlers):
        logger.addHandler(_ToMMEngine())
        logger.setLevel(logging.INFO)
        logger.propagate = False
