"""Room of configs: changing and reading them.

``edit`` (one function an option of a command), ``lr_plan`` (what a recipe does to the learning rate).
"""
