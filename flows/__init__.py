"""Prefect flows: they launch DVC, read results and decide. Nothing imports them."""

import os

from mien.pipeline import TELEMETRY_OFF

for _name, _value in TELEMETRY_OFF.items():  # before Prefect is imported, which begins at once
    os.environ.setdefault(_name, _value)
