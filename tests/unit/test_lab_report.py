"""Views of what the lab found: the page, its drawings, and the terminal."""

from __future__ import annotations

import doctest
import io
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from dragoman.lab.result import LabSettings, WorldResult
from dragoman.report import lab_charts, lab_overview
from dragoman.report.cells import BAD, GOOD, PLAIN
from dragoman.report.lab import lab_page, write_lab
from dragoman.report.lab_charts import cosine_chart, learning_charts, spread
from dragoman.report.lab_overview import overview
from dragoman.report.lab_tables import gradient_table, headline_table, row_table
from dragoman.report.lab_terminal import lab_overview as terminal_overview
from dragoman.report.lab_terminal import lab_terminal
from lab_results import START, method_result, world_result
from page import Page

ODD_LABEL = "chunk[guard=off]"


@pytest.fixture(autouse=True)
def _matplotlib_outside_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))


@pytest.fixture
def lexicon() -> WorldResult:
    return world_result(
        method_result(ODD_LABEL, 0.12, 0.31),
        method_result("span", 0.0046, odd_push=1e-18),
        method_result("bpm", 0.05, 0.019, total_variation=0.16),
    )


@pytest.fixture
def markov() -> WorldResult:
    return world_result(method_result("span", 0.02), method_result("canon", 0.00002), kind="markov")


def shown(what: RenderableType, width: int = 110) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


# ---- page --------------------------------------------------------------------------------------------


def test_the_page_stands_alone(lexicon: WorldResult, markov: WorldResult) -> None:
    page = Page(lab_page([lexicon, markov]))
    links = [*page.attributes("src"), *page.attributes("href"), *page.attributes("xlink:href")]
    ids = page.attributes("id")
    assert links and all(link.startswith("#") for link in links)
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert {link[1:] for link in links} <= set(ids)
    names = [*page.attributes("aria-labelledby"), *page.attributes("aria-describedby")]
    named = [name for several in names for name in several.split()]
    assert named and set(named) <= set(ids)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert sum(tag == "svg" for tag, _ in page.tags) == 6


def test_every_table_is_named_and_scrolls_within_itself(lexicon: WorldResult) -> None:
    page = Page(lab_page([lexicon]))
    tables = sum(tag == "table" for tag, _ in page.tags)
    # text KL, gradients, rows, the world, the methods
    assert tables == 5 == sum(tag == "caption" for tag, _ in page.tags)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    scrolled = [attrs for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "scroll"]
    assert len(scrolled) == tables + 3, "and the drawings"
    assert all(attrs.get("tabindex") == "0" and attrs.get("role") == "region" for attrs in scrolled)


def test_the_heading_says_what_was_run(lexicon: WorldResult) -> None:
    text = re.sub(r"\s+", " ", Page(lab_page([lexicon])).text)
    for expected in (
        "World lexicon, number 0",
        "Size 60 texts",
        "Teacher's merges 197 (of 250: its texts allow no more)",
        "Student's merges 80 ",
        "Text KL at the start 0.428 nats",
        "Updates 120",
        "Texts an update 64",
        "Seeds 3, and 1 to tune on",
        "Learning rates best of 0.01, 0.03, 0.1",
        "Quick look yes",
        "This is a quick look",
        "Time 6 s",
        "How to read this",
    ):
        assert expected.replace(" ", "") in text.replace(" ", ""), expected
    assert text.index("How to read this") < text.index("Text KL after 120 updates")
    full = Page(lab_page([replace(lexicon, settings=LabSettings(rates=(0.03,)))])).text
    assert "This is a quick look" not in full and "best of" not in full


def test_methods_say_what_they_do(lexicon: WorldResult, markov: WorldResult) -> None:
    page = Page(lab_page([lexicon, markov]))
    for label in (ODD_LABEL, "span", "bpm", "canon"):
        assert page.text.count(f"what {label} does") == 1, label
        assert f"#method-{label}" in page.attributes("href")


def test_labels_are_escaped(lexicon: WorldResult) -> None:
    odd = replace(lexicon, methods=(method_result("a<b>&c", 0.1), method_result("d", 0.2)))
    page = Page(lab_page([odd]))
    assert "b" not in {tag for tag, _ in page.tags} and "a<b>&c" in page.text


def test_several_worlds_begin_with_one_table(lexicon: WorldResult, markov: WorldResult) -> None:
    text = Page(lab_page([lexicon, markov])).text
    assert text.index("All worlds") < text.index("Text KL after 120 updates")
    assert "All worlds" not in Page(lab_page([lexicon])).text


def test_same_results_same_page(lexicon: WorldResult, tmp_path: Path) -> None:
    write_lab([lexicon], tmp_path / "lab.html")
    assert (tmp_path / "lab.html").read_text(encoding="utf-8") == lab_page([lexicon])


# ---- tables ------------------------------------------------------------------------------------------


def test_best_first_and_odd_text_marked(lexicon: WorldResult) -> None:
    rows = headline_table(lexicon).rows
    assert [row[0].text for row in rows] == ["span", "bpm", ODD_LABEL]
    assert [row[2].tone for row in rows] == [GOOD, PLAIN, PLAIN]
    # 1 %, 1.9 % and 31 %: marked from 2 % on
    assert [row[5].tone for row in rows] == [PLAIN, PLAIN, BAD]


def test_what_rounding_leaves_is_zero(lexicon: WorldResult) -> None:
    rows = {row[0].text: row for row in gradient_table(lexicon).rows}
    assert rows["span"][-1].text == "0" and rows["bpm"][-1].text == "0.200"


def test_rows_that_lead_away_are_marked(lexicon: WorldResult) -> None:
    (row,) = row_table(lexicon).rows
    assert [cell.text for cell in row] == [
        *("bpm", "0.160", "0.150", "0.160", "0.0300", "98.0 %", "lower 100.0 %", "lower 75.0 %")
    ]
    # .16 is farther from q* than the student's own .15
    assert row[1].tone == BAD
    near = replace(lexicon, methods=(method_result("bpm", 0.05, total_variation=0.14),))
    assert row_table(near).rows[0][1].tone == PLAIN


def test_overview_of_text_kl(lexicon: WorldResult, markov: WorldResult) -> None:
    table = overview([lexicon.to_json(), markov.to_json()])
    assert table.columns == ("world", "start", ODD_LABEL, "span", "bpm", "canon")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["lexicon 250/80", "0.428", "0.1200 (31.0 %)", "0.0046 (1.0 %)", "0.0500 (1.9 %)", "–"],
        ["markov 250/80", "0.428", "–", "0.0200 (1.0 %)", "–", "<0.0001 (1.0 %)"],
    ]
    good = [[cell.text for cell in row if cell.tone == GOOD] for row in table.rows]
    assert good == [["0.0046 (1.0 %)"], ["<0.0001 (1.0 %)"]]


def test_overview_of_another_figure(lexicon: WorldResult) -> None:
    table = overview([lexicon.to_json()], figure="total_variation", labels=["span", "bpm"])
    assert table.columns == ("world", "bpm"), "span has no rows"
    assert table.rows[0][1].text == "0.160 (98.0 %)"


def test_doctests() -> None:
    for module in (lab_charts, lab_overview):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


# ---- drawings ----------------------------------------------------------------------------------------


def test_names_stand_at_the_ends_of_curves_in_their_order(lexicon: WorldResult) -> None:
    for chart in learning_charts(lexicon):
        ends = [0.12, 0.0046, 0.05] if "text KL" in chart.title else [0.31, 0.01, 0.019]
        heights = {}
        for found in re.finditer(r"<text [^>]*>([^<]*)</text>", chart.svg):
            if found[1] in (ODD_LABEL, "span", "bpm"):
                place = re.search(r'\by="([-\d.]+)"|translate\([-\d.]+ ([-\d.]+)\)', found[0])
                assert place is not None, found[0]
                heights[found[1]] = float(place[1] or place[2])
        # y grows downwards
        by_end = sorted(zip(ends, (ODD_LABEL, "span", "bpm"), strict=True), reverse=True)
        assert sorted(heights, key=lambda label: heights[label]) == [label for _, label in by_end]


def test_drawings_have_dashes_and_colours_of_the_page(lexicon: WorldResult) -> None:
    chart = learning_charts(lexicon)[0]
    assert "stroke-dasharray" in chart.svg and "var(--muted)" in chart.svg and "#0102" not in chart.svg
    assert f'aria-label="{lexicon.world.name}: text KL by update"' in chart.svg
    (cosines,) = cosine_chart(lexicon)
    assert ODD_LABEL in cosines.svg
    assert learning_charts(replace(lexicon, methods=())) == []


def test_thirty_methods_look_different() -> None:
    looks = {(look["color"], str(look["linestyle"])) for look in map(lab_charts._look, range(30))}
    assert len(looks) == 30


def test_a_text_kl_of_zero_can_be_drawn() -> None:
    charts = learning_charts(world_result(method_result("a", 0.0, 0.0), method_result("b", START)))
    assert all("nan" not in chart.svg for chart in charts)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_do_not_touch(heights: list[float]) -> None:
    gap = 0.08
    places = spread(heights, gap)
    found = sorted(places)
    assert all(b - a > gap - 1e-9 for a, b in pairwise(found))
    assert found[0] >= 0 and found[-1] <= 1 + 1e-9
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    assert [places[place] for place in order] == found


# ---- terminal ----------------------------------------------------------------------------------------


def test_terminal_shows_labels_whole(lexicon: WorldResult) -> None:
    text = shown(lab_terminal(lexicon))
    assert "Text KL after 120 updates" in text and "Rows against q*" in text and ODD_LABEL in text


def test_overview_in_the_terminal(lexicon: WorldResult, markov: WorldResult) -> None:
    lines = shown(terminal_overview([lexicon, markov])).splitlines()
    assert lines[0].strip() == "Text KL at the end, nats a text"
    # a label in brackets is text, not markup
    assert lines[1].split() == ["world", "start", ODD_LABEL, "span", "bpm", "canon"]
    assert [re.findall(r"\S+ \(\S+ %\)\*", line) for line in lines[2:4]] == [
        ["0.0046 (1.0 %)*"],
        ["<0.0001 (1.0 %)*"],
    ]
    assert lines[-1].endswith("* the least of its world.")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_overview_is_cut_between_methods(lexicon: WorldResult, markov: WorldResult, width: int) -> None:
    lines = shown(terminal_overview([lexicon, markov]), width).splitlines()
    assert all(len(line) <= width for line in lines)
    heads = [line.split() for line in lines if line.startswith("world ")]
    assert len(heads) > 1
    assert all(head[:2] == ["world", "start"] and len(head) > 2 for head in heads)
    assert [label for head in heads for label in head[2:]] == [ODD_LABEL, "span", "bpm", "canon"]
    assert sum("0.0046 (1.0 %)*" in line for line in lines) == 1
