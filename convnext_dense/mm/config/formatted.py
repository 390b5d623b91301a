"""A config whose text is formatted once: a run asks for it four times, and each takes half a second."""

from mmengine.config import Config


class FormattedOnce(Config):
    """mmengine's config; `pretty_text` is computed again only when an entry has changed."""

    @classmethod
    def of(cls, cfg: Config) -> "FormattedOnce":
        """The same config, with the same entries, not a copy of them."""
        new = cls.__new__(cls)
        new.__dict__.update(cfg.__dict__)
        return new

    @property
    def pretty_text(self) -> str:
        """The entries as Python code."""
        entries = repr(self._cfg_dict)
        known, text = self.__dict__.get("_formatted", (None, ""))
        if known != entries:
            text = super().pretty_text
            self.__dict__["_formatted"] = entries, text
        return text
