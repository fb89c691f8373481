"""Measurements: one command each, results as JSON in ``results/``."""
