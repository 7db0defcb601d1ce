"""Weights of a teacher in 8 or 4 bits, by the packages that transformers hands them to. Accelerators only: on
CPU bfloat16 is faster and closer to the truth (decision 0015)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from dragoman.errors import UsageError


def quantization_config(name: str, device: torch.device) -> Any:
    """What `from_pretrained` is told for `teacher.quantization`. The output head keeps its precision.

    Raises UsageError as `check_quantization`.
    """
    check_quantization(name, device)
    return _KINDS[name][1]()


def check_quantization(name: str, device: torch.device) -> None:
    """Raise UsageError on CPU, and where the package is not installed."""
    package = _KINDS[name][0]
    if device.type == "cpu":
        raise UsageError(
            f"teacher.quantization is {name!r}, which needs an accelerator, but the teacher runs on CPU, "
            "where 8 bits are slower and further from the model's log-probs than bfloat16. Set "
            "teacher.quantization=null and teacher.dtype=bfloat16"
        )
    if find_spec(package) is None:
        raise UsageError(
            f"teacher.quantization is {name!r}, which needs the package {package!r}, which is not installed: "
            "run `pip install 'dragoman[quantized]'`, or set teacher.quantization=null"
        )


def _bitsandbytes_int8() -> Any:
    """Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _bitsandbytes_nf4() -> Any:
    """Dettmers et al. 2023, QLoRA (arXiv 2305.14314): NormalFloat, its scales quantised too."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _torchao_int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(quant_type=Int8WeightOnlyConfig())


def _torchao_int4() -> Any:
    from torchao.quantization import Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(quant_type=Int4WeightOnlyConfig(group_size=128))


_KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "bitsandbytes-int8": ("bitsandbytes", _bitsandbytes_int8),
    "bitsandbytes-nf4": ("bitsandbytes", _bitsandbytes_nf4),
    "torchao-int8": ("torchao", _torchao_int8),
    "torchao-int4": ("torchao", _torchao_int4),
}
