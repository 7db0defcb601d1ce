"""The page of an audit in a real browser: accessible, and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Browser, Tab, find_chromium

import tiny
from dragoman.audit.run import run_audit
from dragoman.config import load_config
from dragoman.report.audit import write_audit

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on the PATH")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(scheme: str, axe: str, tmp_path: Path) -> None:
    config = load_config(
        {
            "student": {"model": str(tiny.byte_level(tmp_path / "student"))},
            "teacher": {"model": str(tiny.sentencepiece(tmp_path / "teacher"))},
            "data": {"train": "none.jsonl"},
            "train": {"steps": 1},
        }
    )
    page = tmp_path / "audit.html"
    write_audit(run_audit(config, fast=True), page)
    with Browser() as browser:
        tab = Tab(browser, page, scheme=scheme)
        assert tab.violations(axe) == [] and tab.errors == [] and tab.requests == [page.resolve().as_uri()]
