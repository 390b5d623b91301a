"""The rate of each layer is logged when mmengine logs; ``test_accuracy`` has a whole run."""

from types import SimpleNamespace

from mmengine.hooks import LoggerHook

from convnext_dense.mm.engine.hooks import GroupRatesHook


def logged(groups: list[dict], steps: int) -> list[tuple[int, dict]]:
    found = []
    runner = SimpleNamespace(
        hooks=[LoggerHook(interval=2)],
        optim_wrapper=SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups)),
        visualizer=SimpleNamespace(add_scalars=lambda rates, step: found.append((step, rates))),
        train_loop=None,
    )
    hook = GroupRatesHook()
    hook.before_train(runner)
    for runner.iter in range(steps):
        hook.after_train_iter(runner, runner.iter)
    return found


def test_one_rate_per_layer_that_of_its_first_group():
    groups = [
        dict(layer_id=0, lr=0.1), dict(layer_id=0, lr=0.9),
        dict(layer_id=2, lr=0.3), dict(layer_id=1, lr=0.2),
    ]  # fmt: skip
    rates = {"lr/layer 0": 0.1, "lr/layer 1": 0.2, "lr/layer 2": 0.3}
    assert logged(groups, steps=5) == [(2, rates), (4, rates)]


def test_a_recipe_with_a_single_rate_logs_no_layers():
    assert logged([dict(lr=0.1), dict(lr=0.2)], steps=4) == []
    assert logged([dict(layer_id=0, lr=0.1)], steps=4) == []
