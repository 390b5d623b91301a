import copy

from mmengine.config import Config, config

from convnext_dense.mm.config.formatted import FormattedOnce


def test_the_text_is_that_of_mmengine_and_is_formatted_once(monkeypatch):
    formatted = []
    original = config.FormatCode
    monkeypatch.setattr(
        config, "FormatCode", lambda text, **style: (formatted.append(text), original(text, **style))[1]
    )
    entries = dict(model=dict(type="A", depths=[3, 3, 9, 3]), rate=1e-4)
    plain = Config(entries)
    cfg = FormattedOnce.of(plain)
    assert cfg.pretty_text == plain.pretty_text
    formatted.clear()
    assert cfg.pretty_text == copy.deepcopy(cfg).pretty_text == plain.pretty_text
    assert len(formatted) == 1  # that of the plain config
    cfg.model.depths[2] = 27
    assert "27" in cfg.pretty_text and cfg.pretty_text == Config(cfg.to_dict()).pretty_text


def test_the_entries_are_shared_with_the_config():
    plain = Config(dict(a=1))
    FormattedOnce.of(plain).a = 2
    assert plain.a == 2
