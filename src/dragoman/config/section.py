"""What every section of the configuration has in common.

Values are strict (the text `"10"` is no number, `true` is no 1), so that a slip in a file is reported
where it was made, and frozen, so that no stage can change the settings of a later one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict

Names = Annotated[tuple[str, ...], Strict(False)]
"""A list in YAML and JSON, a tuple in Python."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are strict, finite and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
