"""Preference optimisation of the adversary."""
