"""Istio's traffic capture rules in Python: print, apply and remove them, all or nothing."""

__version__ = "0.1.0"
