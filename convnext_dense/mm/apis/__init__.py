"""Functions that the commands call: ``train`` and ``predict``."""
