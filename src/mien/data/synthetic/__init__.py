"""Drawn faces whose identity and expression vary apart: the data set that needs no download."""

from mien.data.synthetic.rendering import render
from mien.data.synthetic.table import synthetic_table

__all__ = ["render", "synthetic_table"]
