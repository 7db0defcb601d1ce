"""Enumerable models and exact targets: methods measured against the truth."""
