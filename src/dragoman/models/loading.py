"""Loading a causal language model: safetensors only, remote code only if the user says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dragoman.assets import resolve
from dragoman.config import LoraConfig, StudentConfig, TeacherConfig, WeightsConfig
from dragoman.errors import AssetError, UsageError
from dragoman.models.quantized import quantization_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What the cost of a forward pass depends on; see `dragoman.observe.transformer_flops`."""

    num_parameters: int
    """Parameters multiplied for each token: with the output head, without a looked-up embedding."""
    num_layers: int
    hidden_size: int


def load_model(config: WeightsConfig, **more: Any) -> PreTrainedModel:
    """Load the model a configuration names (folder, hub id or `assets:NAME`), in evaluation mode; `more` is
    what else `from_pretrained` is told.

    Raises AssetError where weights are missing, corrupt or of another shape than the model's.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    place = resolve(config.model)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            place,
            revision=config.revision or "main",
            dtype="auto" if config.dtype == "auto" else getattr(torch, config.dtype),
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **more,
        )
    except torch.OutOfMemoryError:
        raise  # says itself how much was wanted and where; the weights are right
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise AssetError(
            f"cannot load the model {config.model!r}: {error}. Expected a folder or hub repository with "
            "config.json and safetensors weights (other formats are not read)"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise AssetError(
            f"the weights of {config.model!r} lack {len(missing)} tensors the model needs, such as "
            f"{missing[0]!r}: it would run on random numbers. Download the model again"
        )
    return model.eval()


def load_teacher(config: TeacherConfig, *, device: torch.device) -> PreTrainedModel:
    """Load a model that is only to score, on its device, in as many bits as it is asked for.

    Raises UsageError where `teacher.quantization` needs what is not there.
    """
    if config.quantization is None:
        return load_model(config).to(device)
    try:
        how = quantization_config(config.quantization, device)
        return load_model(config, quantization_config=how, device_map={"": device})
    except ImportError as error:
        raise UsageError(
            f"teacher.quantization is {config.quantization!r}, and its package or a version of it that "
            f"transformers takes is not there: {error}. Run `pip install -U 'dragoman[quantized]'`, or set "
            "teacher.quantization=null"
        ) from error


def load_student(config: StudentConfig, *, device: torch.device, seed: int) -> PreTrainedModel:
    """Load a model with what of it is to be trained; `seed` is that of the adapters' first weights."""
    model = load_model(config).to(device)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if config.lora is not None:
        torch.manual_seed(seed)
        model = add_lora(model, config.lora)
    return model


def add_lora(model: PreTrainedModel, lora: LoraConfig) -> PreTrainedModel:
    """Freeze a model and add trainable low-rank factors (Hu et al. 2021, arXiv 2106.09685)."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import TaskType, get_peft_model

    modules = lora.target_modules
    return get_peft_model(
        model,
        PeftLoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=modules if isinstance(modules, str) else list(modules),
        ),
    )


def causal_lm(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model itself, inside PEFT's wrapper if there is one."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


def context_length(model: PreTrainedModel) -> int | None:
    """The longest sequence the model was made for, in tokens; None where its config does not say."""
    config = causal_lm(model).config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def model_size(model: PreTrainedModel) -> ModelSize:
    """The size of a model for FLOP estimates. Raises UsageError for a config without layers."""
    base = causal_lm(model)
    config = base.config.get_text_config()
    if not hasattr(config, "num_hidden_layers") or not hasattr(config, "hidden_size"):
        raise UsageError(f"{type(base).__name__} does not say how many layers it has: not a text decoder?")
    embedding = base.get_input_embeddings().weight
    head = base.get_output_embeddings().weight
    total = sum(_numel(parameter) for parameter in base.parameters())
    looked_up = 0 if head is embedding else embedding.numel()
    return ModelSize(
        num_parameters=total - looked_up,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
    )


def _numel(parameter: Tensor) -> int:
    """Numbers that a weight stands for; bitsandbytes keeps two of 4 bits in one."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)
