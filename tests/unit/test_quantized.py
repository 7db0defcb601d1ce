"""What transformers is told to load a teacher in 8 or 4 bits, and when it is not. The packages are fakes:
they run on accelerators only."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import tiny
from dragoman.config import TeacherConfig
from dragoman.errors import UsageError
from dragoman.models import load_teacher, model_size, quantized, teacher_device

GPU = torch.device("cuda", 0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reaches `from_pretrained`, with both packages as good as installed."""
    found: dict[str, Any] = {}
    model = torch.nn.Linear(1, 1)

    def from_pretrained(place: object, **settings: Any) -> tuple[Any, dict[str, list[str]]]:
        found.update(settings)
        return model, {"missing_keys": []}

    fake = ModuleType("torchao.quantization")
    for name in ("Int8WeightOnlyConfig", "Int4WeightOnlyConfig"):
        setattr(fake, name, lambda name=name, **settings: (name, settings))
    monkeypatch.setitem(sys.modules, "torchao.quantization", fake)
    monkeypatch.setattr("transformers.TorchAoConfig", lambda quant_type: quant_type)
    monkeypatch.setattr("transformers.BitsAndBytesConfig", lambda **settings: settings)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    monkeypatch.setattr(quantized, "find_spec", lambda name: object())
    monkeypatch.setattr("dragoman.models.loading.resolve", lambda name: name)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bitsandbytes-int8", {"load_in_8bit": True}),
        (
            "bitsandbytes-nf4",
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": torch.bfloat16,
            },
        ),
        ("torchao-int8", ("Int8WeightOnlyConfig", {})),
        ("torchao-int4", ("Int4WeightOnlyConfig", {"group_size": 128})),
    ],
)
def test_what_is_asked_for(told: dict[str, Any], name: Any, expected: object) -> None:
    load_teacher(TeacherConfig(model="m", quantization=name, dtype="bfloat16"), device=GPU)
    assert told["quantization_config"] == expected
    assert told["device_map"] == {"": GPU}
    assert told["dtype"] == torch.bfloat16


def test_none_is_none(told: dict[str, Any]) -> None:
    load_teacher(TeacherConfig(model="m"), device=torch.device("cpu"))
    assert "quantization_config" not in told and "device_map" not in told


def test_on_cpu_it_is_refused(tmp_path: Path) -> None:
    config = TeacherConfig(model=str(tmp_path), quantization="torchao-int8")
    with pytest.raises(UsageError, match=r"needs an accelerator.*teacher\.dtype=bfloat16"):
        load_teacher(config, device=torch.device("cpu"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    config = TeacherConfig(model="m", quantization="bitsandbytes-nf4")
    with pytest.raises(UsageError, match=r"'bitsandbytes'.*pip install 'dragoman\[quantized\]'"):
        load_teacher(config, device=GPU)


def test_what_transformers_misses_is_said(told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: object, **settings: Any) -> Any:
        raise ImportError("Using `bitsandbytes` 8-bit quantization requires bitsandbytes>=0.48")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    config = TeacherConfig(model="m", quantization="bitsandbytes-int8")
    with pytest.raises(
        UsageError, match=r"'bitsandbytes-int8'.*requires bitsandbytes>=0\.48.*pip install -U"
    ):
        load_teacher(config, device=GPU)


@pytest.mark.parametrize("quantization", [None, "bitsandbytes-int8"])
def test_memory_that_runs_out_is_no_fault_of_the_weights(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, quantization: Any
) -> None:
    def refuse(place: object, **settings: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    with pytest.raises(torch.OutOfMemoryError, match=r"20\.00 MiB"):
        load_teacher(TeacherConfig(model="m", quantization=quantization), device=GPU)


def test_where_a_teacher_scores() -> None:
    assert teacher_device(TeacherConfig(model="m"), GPU) == GPU
    assert teacher_device(TeacherConfig(model="m", device="cpu"), GPU) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=rf"teacher\.device is '{name}'.*teacher\.device=null"):
        teacher_device(TeacherConfig(model="m", device=name), torch.device("cpu"))


def test_a_quantization_is_refused_by_the_device_of_the_teacher() -> None:
    config = TeacherConfig(model="m", device="cpu", quantization="torchao-int8")
    with pytest.raises(UsageError, match="the teacher runs on CPU"):
        teacher_device(config, GPU)


def test_the_size_is_that_of_the_weights_not_of_their_bytes(tmp_path: Path) -> None:
    from dragoman.models import load_model

    model = load_model(TeacherConfig(model=str(tiny.sentencepiece_model(tmp_path, seed=2))))
    before = model_size(model).num_parameters
    layer = model.model.layers[0].mlp.up_proj
    shape = layer.weight.shape
    # Two numbers of 4 bits in a byte
    layer.weight = torch.nn.Parameter(torch.zeros(shape.numel() // 2, dtype=torch.uint8), requires_grad=False)
    layer.weight.quant_state = SimpleNamespace(shape=shape)
    assert model_size(model).num_parameters == before
