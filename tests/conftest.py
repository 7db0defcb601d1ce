"""What all tests share: array shapes are enforced, and a fetched asset or a skip that says what it lacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# The first example of a property may build tables, and a busy machine is no defect.
settings.register_profile("dragoman", deadline=None)
settings.load_profile("dragoman")

# Tables are made anew, and none are written to anyone's cache; those of `test_text_stored` go to its own.
os.environ["DRAGOMAN_TABLES"] = "off"

# Annotated shapes and dtypes are checked at every call, before anything of dragoman is imported. Not in
# `types`: its values check themselves, and that is tested.
SHAPED = (
    "text",
    "alignment",
    "supervise",
    "evaluate",
    "padding",
    "objective",
    "models",
    "rollout",
    "teach",
    "data",
    "lab",
)
install_import_hook([f"dragoman.{room}" for room in SHAPED], "beartype.beartype")


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """`asset(name)` is the folder of a fetched asset.

    The test is skipped when it is not there, and fails if DRAGOMAN_REQUIRE_ASSETS=1.
    """
    from dragoman.assets import info

    def find(name: str) -> Path:
        state = info(name)
        if state.problem is not None:
            reason = f"asset {name!r}: {state.problem}; run: dragoman assets get {name}"
            if os.environ.get("DRAGOMAN_REQUIRE_ASSETS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        return state.folder

    return find
