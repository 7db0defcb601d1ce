"""What an in-process teacher writes by itself, and where it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from dragoman.config import TeacherConfig
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.teach import InProcessTeacher, LocalProbe
from dragoman.types import Prompt

PADDING = 8


@pytest.fixture
def teacher(tmp_path: Path) -> InProcessTeacher:
    """Its model has eight ids more than its tokenizer, as rounded-up embeddings have."""
    folder = tiny.sentencepiece(tmp_path / "teacher")
    renderer = Renderer.from_config(TeacherConfig(model=str(folder)))
    tiny.tiny_llama(folder, renderer.tokenization.num_ids + PADDING, seed=0)
    config = TeacherConfig(model=str(folder))
    return InProcessTeacher(load_model(config), renderer, config)


@pytest.mark.parametrize("place", [0, 2])
def test_an_id_that_only_the_model_has_ends_the_answer(teacher: InProcessTeacher, place: int) -> None:
    tokens, calls = teacher.renderer.tokenization, 0
    words = tokens.encode(b"the answer").ids.tolist()

    def prefer(module: Any, inputs: Any, out: Any) -> Any:
        nonlocal calls
        wanted = tokens.num_ids + 3 if calls == place else words[calls]
        calls += 1
        out.logits[0, -1, wanted] = 1e4
        return out

    teacher.model.register_forward_hook(prefer)
    written = LocalProbe(teacher).generate(Prompt(key="p", text="Hello"), 5)
    assert written.ids is not None and written.logp is not None
    assert written.ids.tolist() == words[:place]
    assert written.data == b"".join(tokens.token_bytes(index) for index in words[:place])
    assert len(written.logp) == place
    assert written.note == f"it wrote id {tokens.num_ids + 3} next, which its tokenizer does not have"
