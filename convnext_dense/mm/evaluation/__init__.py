"""Evaluators: ``metrics`` keeps what pictures and reports need, beside those of mmdet and mmseg."""
