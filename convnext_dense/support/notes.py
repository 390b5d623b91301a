"""Lines for the user that are collected before there is a log."""


class Warned(str):
    """A line that the log shows as a warning: the run goes on, and may not do what was meant."""

    __slots__ = ()
