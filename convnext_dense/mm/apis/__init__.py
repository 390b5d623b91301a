"""Room of what a command calls: ``train`` and ``predict``."""
