"""What the tests in a browser share."""

from __future__ import annotations

import os

import pytest
from chromium import axe_source

from dragoman.errors import AssetError


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of the accessibility checker axe.

    The test is skipped where it cannot be fetched, and fails if DRAGOMAN_REQUIRE_ASSETS=1.
    """
    try:
        return axe_source(tmp_path_factory.mktemp("axe"))
    except AssetError as error:
        if os.environ.get("DRAGOMAN_REQUIRE_ASSETS") == "1":
            raise
        pytest.skip(f"axe cannot be fetched: {error}")
