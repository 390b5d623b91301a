import copy

from mmengine.config import Config

from convnext_dense.mm.config.formatted import FormattedOnce


def test_the_text_is_that_of_mmengine_and_is_formatted_once(monkeypatch):
    entries = dict(model=dict(type="A", depths=[3, 3, 9, 3]), rate=1e-4)
    expected = Config(entries).pretty_text
    original, asked = Config.pretty_text.fget, []
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: (asked.append(cfg), original(cfg))[1]))
    cfg = FormattedOnce.of(Config(entries))
    assert cfg.pretty_text == copy.deepcopy(cfg).pretty_text == cfg.pretty_text == expected
    assert len(asked) == 1
    cfg.model.depths[2] = 27
    assert "27" in cfg.pretty_text and cfg.pretty_text == original(Config(cfg.to_dict()))
    assert len(asked) == 2


def test_the_entries_are_shared_with_the_config():
    plain = Config(dict(a=1))
    FormattedOnce.of(plain).a = 2
    assert plain.a == 2
