"""Teachers: what a model of another family thinks of each token it would have written."""

from dragoman.teach.capabilities import FullRows, Generates, Generation
from dragoman.teach.in_process import InProcessTeacher, in_process_caps
from dragoman.teach.local_probe import LocalProbe
from dragoman.teach.reference import check_reference, load_reference
from dragoman.teach.selftest import Check, SelfTest, self_test
from dragoman.teach.teacher import Resting, Teacher

__all__ = [
    "Check",
    "FullRows",
    "Generates",
    "Generation",
    "InProcessTeacher",
    "LocalProbe",
    "Resting",
    "SelfTest",
    "Teacher",
    "check_reference",
    "in_process_caps",
    "load_reference",
    "self_test",
]
