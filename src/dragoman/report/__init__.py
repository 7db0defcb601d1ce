"""Views of an alignment and of a run: the terminal rows, and one HTML page a run."""

from dragoman.report.numbers import chunk_numbers, numbers_table
from dragoman.report.page import write_report
from dragoman.report.terminal import alignment_json, alignment_text

__all__ = ["alignment_json", "alignment_text", "chunk_numbers", "numbers_table", "write_report"]
