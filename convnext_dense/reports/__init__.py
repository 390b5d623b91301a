"""Pictures and pages.

``style`` (colours, and how a figure becomes a file), ``sheets`` (predictions beside the truth), ``curves``
(of training), ``charts`` (of accuracy), ``gallery`` (single predictions), ``html`` (the page about a run),
``roadmap`` (costs of its steps), ``preflight`` (needs of a run).
"""
