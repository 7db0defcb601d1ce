"""The benchmark of loss kernels on a small problem: all forms agree."""

from __future__ import annotations

import json
from pathlib import Path

import loss_kernels
import pytest
from loss_forms import FORMS
from loss_kernels import main


@pytest.mark.parametrize("losses", [["credit"], ["rows"], ["entropy"]])
def test_all_forms_agree(tmp_path: Path, losses: list[str]) -> None:
    file = tmp_path / "found.json"
    problem = ["--shape", "400x24", "--positions", "70", "--losses", *losses]
    code = main([*problem, "--forms", *FORMS, "--repeats", "1", "--threads", "1", "--json", str(file)])
    assert code == 0
    found = json.loads(file.read_text())
    assert found["environment"]["packages"]["torch"]
    assert [row["head"] for row in found["rows"]] == ["trained", "added", "frozen"]
    for row in found["rows"]:
        assert (row["vocabulary"], row["hidden"], row["positions"], row["loss"]) == (400, 24, 70, *losses)
        assert row["forms"].keys() == FORMS.keys()
        for form in row["forms"].values():
            assert form["value_off"] < 1e-4
            assert form["gradient_off"] < 1e-4
            assert form["peak_bytes"] > 0
            # one turn behind a gradient says nothing of time
            assert ("seconds" in form) is ("time_ratio" in form) is (row["head"] != "added")
            assert form.get("seconds", 1) > 0


def test_every_form_has_run_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real = loss_kernels.run
    monkeypatch.setattr(loss_kernels, "run", lambda *given: done.append(given[2]) or real(*given))
    flags = ["--shape", "100x8", "--positions", "16", "--repeats", "1", "--threads", "1"]
    assert main([*flags, "--heads", "frozen", "--losses", "rows", "--forms", *FORMS]) == 0
    assert done == 2 * list(FORMS)
    done.clear()
    monkeypatch.setattr(loss_kernels, "GROWTH", {"positions": [(16, 100, 8)]})
    assert main(["--growth", "--repeats", "1", "--threads", "1"]) == 0
    assert done == 2 * ["plain", "fused"]


def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"positions": [(16, 100, 8), (32, 100, 8)], "vocabulary": [(16, 100, 8), (16, 200, 8)]}
    monkeypatch.setattr(loss_kernels, "GROWTH", sizes)
    file, plot = tmp_path / "found.json", tmp_path / "plot.svg"
    flags = ["--growth", "--repeats", "1", "--threads", "1", "--json", str(file), "--plot", str(plot)]
    assert main(flags) == 0
    found = json.loads(file.read_text())["growth"]
    assert [(one["axis"], one["size"], one["form"]) for one in found[2:6]] == [
        ("positions", 32, "plain"),
        ("positions", 32, "fused"),
        ("vocabulary", 100, "plain"),
        ("vocabulary", 100, "fused"),
    ]
    assert "<svg" in plot.read_text()


def test_a_plot_is_of_growth(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--plot", "file.svg"])
    assert "--growth" in capsys.readouterr().err
