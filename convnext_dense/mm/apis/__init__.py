"""Room of what a command calls: ``train``, ``predict``, and ``options`` (arguments that commands share)."""
