"""Prefect flows: they launch DVC, read results and decide. Nothing imports them."""
