"""What an audit says that each method would need, for a teacher in this process."""

from __future__ import annotations

from typing import Any

import pytest

import tiny
from dragoman.audit.offers import method_rows
from dragoman.audit.pair_facts import MethodRow
from dragoman.config import load_config
from dragoman.methods import method_defaults, methods
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.types import TeacherLevel

# An audit asks for likely tokens, whatever the run does.


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    root = tmp_path_factory.mktemp("pair")
    return PairTables(
        Tokenization.from_pretrained(str(tiny.byte_level(root / "a"))),
        Tokenization.from_pretrained(str(tiny.sentencepiece(root / "b"))),
    )


def rows(tables: PairTables, *overrides: str) -> dict[str, MethodRow]:
    tree: dict[str, Any] = {
        "student": {"model": "s"},
        "teacher": {"model": "t"},
        "data": {"train": "p.jsonl"},
        "train": {"steps": 1},
    }
    config = load_config(tree, overrides, method_defaults)
    return {row.name: row for row in method_rows(config, [], tables)}


def test_every_method_has_a_row(tables: PairTables) -> None:
    found = rows(tables)
    assert list(found) == list(methods())
    assert [name for name, row in found.items() if row.configured] == ["span"]


def test_defaults_of_a_method_ask_for_what_it_needs(tables: PairTables) -> None:
    # Only what no default can bring is missing: the student's tokenizer, and a model of the teacher's family.
    found = rows(tables)
    assert {name: row.remedy for name, row in found.items() if not row.offered} == {
        "gkd": "equal tokenizers",
        "compass": "name a smaller model of the teacher's family in teacher.reference.model",
    }
    assert found["gkd"].needs == "level 1 (topk), equal tokenizers"


def test_a_configuration_against_its_own_method(tables: PairTables) -> None:
    found = rows(tables, "method.name=retok", "teacher.topk=0")
    assert (found["retok"].offered, found["retok"].remedy) == (False, "set teacher.topk=128")
    assert found["retok"].supervised is None
    assert found["bpm"].offered


def test_equal_tokenizers(tables: PairTables) -> None:
    assert rows(PairTables(tables.student, tables.student))["gkd"].offered


def test_what_is_not_measured(tables: PairTables) -> None:
    """Whole distributions and references are not asked for in an audit, answers are not sampled."""
    unknown = [name for name, row in rows(tables).items() if row.offered and row.supervised is None]
    levels = {name: method.level for name, method in methods().items()}
    assert unknown == [name for name in levels if levels[name] in (None, TeacherLevel.LOGITS)]
