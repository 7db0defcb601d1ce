"""The benchmark of the aligner without its peer: our jobs agree with each other, texts and plots are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from align_speed import JOBS, draw, token_ids
from align_worker import DragomanSide, timed
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXT = "the other thing there\n"


def byte_level(folder: Path, merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer with single bytes and a few merges, saved in a folder."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    return tokenizer


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    byte_level(tmp_path / "student", [("t", "h"), ("th", "e")])
    byte_level(tmp_path / "teacher", [("h", "e"), ("e", "r")])
    return [tmp_path / "student", tmp_path / "teacher"]


def test_all_jobs_find_the_same_chunks(folders: list[Path]) -> None:
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders]
    ids = token_ids(TEXT, 10, tokenizers)
    side = DragomanSide(folders)
    jobs = side.jobs(*ids)
    assert tuple(jobs) == JOBS
    found = {name: side.bounds(job()) for name, job in jobs.items()}
    assert found["chunks"] == found["ids"] == found["sampled"]
    assert found["chunks"][0][-1] == len(ids[0]) == 10
    assert found["chunks"][1][-1] == len(ids[1])
    assert len(timed(jobs["ids"], calls=3, warm=True)) == 3


def test_a_short_text_is_repeated(folders: list[Path]) -> None:
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders]
    ids = token_ids(TEXT, 1_000, tokenizers)
    assert len(ids[0]) == 1_000
    texts = [tokenizer.decode(side) for tokenizer, side in zip(tokenizers, ids, strict=True)]
    assert texts[0] == texts[1] == (TEXT * 1_000)[: len(texts[0])]


def test_the_plot_has_a_panel_a_job(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "text": "prose",
            "student_tokens": tokens,
            "median_seconds": {job: {"trl": 1e-6 * tokens, "dragoman": 1e-8 * tokens} for job in JOBS},
            "ratio": dict.fromkeys(JOBS, 100.0),
        }
        for tokens in (256, 1024)
    ]
    draw(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count('id="axes_') == len(JOBS)
