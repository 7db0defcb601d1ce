"""A tiny student, for modules that do not make their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

import tiny
from dragoman.config import StudentConfig
from dragoman.models import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level_model(tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(StudentConfig(model=str(folder)))
