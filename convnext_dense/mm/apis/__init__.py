"""Functions that the commands call: ``train``, ``test`` and ``predict``."""
