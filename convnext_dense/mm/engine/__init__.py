"""Room of the running: from a config to steps, and checkpoints that survive what happens on the way.

``runner``, ``options`` (declared once for parser and code), ``loops`` (counted in steps), ``optimizer``
(groups by name), ``nan_guard``, ``signals``, ``launch`` (devices and processes), ``fsdp`` (sharded models),
``checkpoint_io`` (whole files, the newest one), ``checkpoints`` (safe reading), ``hooks``.
"""
