"""Aligning two token sequences on the bytes they spell."""

from dragoman.alignment.aligner import align

__all__ = ["align"]
