"""Rows of teacher mass on student tokens, one method a file."""
