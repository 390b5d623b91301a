"""Which tests measure the same thing."""

from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.evaluation.identity import config_hash, recipe_name, row_of


def test_a_config_is_known_by_what_decides_the_test():
    name = "cascade/convnext_t_3x"
    plain = config_hash(load_config(name))
    for change in (
        {"test_dataloader.dataset.data_root": "/elsewhere/"},
        {"optim_wrapper.optimizer.lr": 1.0},
        {"model.backbone.init_cfg": None},
        {"train_cfg.max_epochs": 1},
    ):
        assert config_hash(load_config(name, change)) == plain, change
    for change in (
        {"model.test_cfg.rcnn.max_per_img": 50},
        {"model.backbone.drop_path_rate": 0.1},
        {"test_dataloader.dataset.pipeline": []},
    ):
        assert config_hash(load_config(name, change)) != plain, change


def test_a_run_is_assigned_to_its_row_and_own_classes_to_none():
    cfg = load_config("cascade/convnext_t_3x")
    set_plain_batch_norm(cfg, 1, "cpu")
    assert row_of(cfg, "convnext_t_3x") == "cascade/convnext_t_3x"
    for head in cfg.model.roi_head.bbox_head:
        head.num_classes = 3
    assert row_of(cfg, "convnext_t_3x") is None
    assert recipe_name("configs/cascade/convnext_t_3x.py") == "cascade/convnext_t_3x"
    assert recipe_name("mine/convnext_t_3x.py") is None
