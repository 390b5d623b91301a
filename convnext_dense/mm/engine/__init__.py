"""Running: from a config to training steps, and checkpoints that survive interruptions.

``runner``, ``options`` (declared once for parser and code), ``loops`` (counted in steps), ``optimizer``
(groups by name), ``nan_guard``, ``signals``, ``launch`` (devices and processes), ``fsdp`` (sharded models),
``resume`` and ``schedules`` (other settings than the checkpoint's), ``checkpoint_io`` (complete files, the
newest one), ``checkpoints`` (safe reading), ``hooks`` (a folder, with a file for each hook).
"""
