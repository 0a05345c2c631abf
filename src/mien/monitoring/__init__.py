"""Watching a served model: the prediction log, drift, and a verdict that can be trusted."""
