"""The page of the lab in a real browser: accessible, no wider than the window, and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Browser, Tab, find_chromium

from dragoman.report.lab import write_lab
from lab_results import method_result, world_result

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on the PATH")

LABEL = "bpm[mask_whitespace=false;teacher.topk=16]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = [method_result(LABEL, 0.05, 0.1, total_variation=0.2), method_result("span", 0.004)]
    more = [method_result(f"chunk[guard={number}]", 0.1 + number / 100) for number in range(8)]
    path = tmp_path_factory.mktemp("lab") / "lab.html"
    write_lab([world_result(*methods, *more), world_result(*methods, kind="markov")], path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(scheme: str, axe: str, page: Path) -> None:
    with Browser() as browser:
        tab = Tab(browser, page, scheme=scheme)
        assert tab.violations(axe) == [] and tab.errors == [] and tab.requests == [page.resolve().as_uri()]


@pytest.mark.parametrize("width", [360, 400, 1200])
def test_wide_tables_scroll_within_themselves(width: int, page: Path) -> None:
    with Browser() as browser:
        tab = Tab(browser, page, size=(width, 800))
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        wider = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth)"
        assert tab.evaluate(f"{wider}.length") > 0


def test_names_of_rows_stay_in_sight(page: Path) -> None:
    with Browser() as browser:
        tab = Tab(browser, page, size=(400, 800))
        moved = tab.evaluate(
            "(() => { const box = document.querySelector('#overview').closest('.scroll');"
            " box.scrollLeft = 200; return box.scrollLeft; })()"
        )
        place = "document.querySelector('tbody th').getBoundingClientRect().left"
        assert moved == 200 and tab.evaluate(place) == 16
