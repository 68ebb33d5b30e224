"""Held-out measurement of adversaries."""
