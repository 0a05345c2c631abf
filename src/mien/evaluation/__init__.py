"""Measuring a classifier, and showing what was measured."""
