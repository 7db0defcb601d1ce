"""The one fixture shared by all tests: a fetched asset, or a skip that says what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


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
