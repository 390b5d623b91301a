"""From a test to figures that are the same thing everywhere: in records, tables, pictures and reports.

metrics     evaluators that keep what pictures and reports need, beside those of mmdet and mmseg
judge       which tests can be recorded, what they keep, and their figures
identity    what a test result depends on, as digests
"""
