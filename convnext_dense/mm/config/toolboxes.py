"""What the toolboxes' own tools and inference need of the config that a run leaves in its work folder."""

from mmengine.config import Config, ConfigDict

from convnext_dense.mm.datasets.paths import datasets_of

IMPORT = "convnext_dense.mm"


def for_toolboxes(cfg: Config) -> None:
    """Make ``cfg`` complete for ``tools/train.py`` and ``inference_model`` of mmdet and mmseg.

    It imports this package, whose runner, loops and hooks it names, and has ``test_pipeline``, which mmseg
    reads instead of the dataset's.

    Args:
        cfg: changed in place; what it has stays.
    """
    imports = cfg.get("custom_imports") or ConfigDict(imports=[])
    names = imports.get("imports") or []
    names = [names] if isinstance(names, str) else list(names)
    if IMPORT not in names:
        # allow_failed_imports would hide why a type is not registered
        cfg.custom_imports = ConfigDict(imports, imports=[IMPORT, *names], allow_failed_imports=False)
    if cfg.get("test_pipeline") is None:
        pipelines = [data.get("pipeline") for data in datasets_of(cfg, ("test",))]
        if pipelines and pipelines[0]:
            cfg.test_pipeline = pipelines[0]
