"""Teachers: what a model of another family thinks of each token it would have written."""

from dragoman.teach.in_process import InProcessTeacher
from dragoman.teach.teacher import Teacher

__all__ = ["InProcessTeacher", "Teacher"]
