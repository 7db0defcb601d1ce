"""What can be said of a configuration before anything is read."""

from __future__ import annotations

from dragoman.config import Config
from dragoman.errors import UsageError
from dragoman.methods import Method, Writer, get_method
from dragoman.types import TeacherLevel


def checked_method(config: Config) -> Method:
    """The method of a configuration; raises UsageError where the rest of it does not go with it, or would be
    ignored."""
    method = get_method(config.method.name)
    if method.writer is Writer.TEACHER and config.rollout.engine != "sample":
        raise UsageError(
            f"method {method.name!r} trains on what the teacher writes, so rollout.engine="
            f"{config.rollout.engine!r} would be ignored; set it to 'sample', or choose another method"
        )
    if method.writer is Writer.TEACHER and config.train.max_staleness:
        raise UsageError(
            f"method {method.name!r} scores nothing, so there is nothing that train.max_staleness="
            f"{config.train.max_staleness} could have done beside an update; leave it out"
        )
    if config.teacher.reference is not None and method.level is not TeacherLevel.REFERENCE:
        raise UsageError(
            f"teacher.reference is {config.teacher.reference.model!r}, which method {method.name!r} would "
            "ignore; leave teacher.reference out, or choose a method of level 3, such as 'compass'"
        )
    method.check_settings(config.method)
    method.check_teacher(config.teacher)
    return method
