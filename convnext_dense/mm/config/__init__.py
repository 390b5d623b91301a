"""Configs: changing and reading them.

``edit`` (one function per option of a command), ``lr_plan`` (what a recipe does to the learning rate).
"""
