"""Room of what a command calls: ``train``, ``predict``, ``options`` (arguments that commands share)."""
