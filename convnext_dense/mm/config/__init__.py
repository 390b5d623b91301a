"""Room of configs: ``edit`` (each option of a command in one respect), ``lr_plan`` (what a recipe does to the rate)."""
