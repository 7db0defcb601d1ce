"""The benchmark of loss kernels on a small problem: all forms agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loss_kernels import FORMS, main


@pytest.mark.parametrize("losses", [["credit"], ["rows"]])
def test_all_forms_agree(tmp_path: Path, losses: list[str]) -> None:
    file = tmp_path / "found.json"
    problem = ["--shape", "400x24", "--positions", "70", "--losses", *losses]
    code = main([*problem, "--repeats", "1", "--threads", "1", "--json", str(file)])
    assert code == 0
    found = json.loads(file.read_text())
    assert found["environment"]["packages"]["torch"]
    assert [row["head"] for row in found["rows"]] == ["trained", "frozen"]
    for row in found["rows"]:
        assert (row["vocabulary"], row["hidden"], row["positions"], row["loss"]) == (400, 24, 70, *losses)
        assert row["forms"].keys() == FORMS.keys()
        for form in row["forms"].values():
            assert form["value_off"] < 1e-4
            assert form["gradient_off"] < 1e-4
            assert form["seconds"] > 0
