"""One typed, frozen tree of settings: YAML in, resolved JSON out. Imports nothing heavy."""

from __future__ import annotations

from dragoman.config.loading import load_config
from dragoman.config.method import MethodConfig
from dragoman.config.models import (
    LoraConfig,
    ModelConfig,
    ReferenceConfig,
    StudentConfig,
    TeacherConfig,
    WeightsConfig,
)
from dragoman.config.paths import resolve_data_path
from dragoman.config.schema import (
    Config,
    DataConfig,
    EvalConfig,
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
    "ReferenceConfig",
    "RolloutConfig",
    "RunConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "WeightsConfig",
    "load_config",
    "resolve_data_path",
]
