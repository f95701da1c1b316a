"""Lobes that teach speech models what text models know."""

__version__ = "0.2.0"
