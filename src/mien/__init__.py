"""Mien: few labelled faces and many unlabelled ones become a small expression classifier.

An implementation of *Expression-Guided Deep Joint Learning for Facial Expression Recognition*
(Fang, Zhao, Han, He; Sensors 2023, 23(16), 7148). Start with ``docs/method.md``.
"""

__version__ = "0.1.0"
