"""One typed, frozen tree of settings: YAML in, resolved JSON out. Imports nothing heavy."""

from __future__ import annotations

from dragoman.config.loading import load_config
from dragoman.config.models import LoraConfig, ModelConfig, StudentConfig, TeacherConfig
from dragoman.config.paths import resolve_data_path
from dragoman.config.schema import (
    Config,
    DataConfig,
    EvalConfig,
    MethodConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "Config",
    "DataConfig",
    "EvalConfig",
    "LoraConfig",
    "MethodConfig",
    "ModelConfig",
    "RolloutConfig",
    "RunConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "load_config",
    "resolve_data_path",
]
