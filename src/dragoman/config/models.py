"""Settings of the two models: which weights, which template, in what precision, in what batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from dragoman.config.section import Names, Section

Quantization = Literal["bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8", "torchao-int4"]


class LoraConfig(Section):
    """Low-rank adapters instead of full weights; leave `student.lora` out to train every weight."""

    r: int = Field(default=16, ge=1, description="Rank of the two low-rank factors.")
    alpha: int = Field(default=32, ge=1, description="Scale: the update is multiplied by `alpha / r`.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of adapter inputs set to zero while training."
    )
    target_modules: Literal["all-linear"] | Names = Field(
        default="all-linear",
        description="Modules that get an adapter, by name; `all-linear` is every linear layer but the head.",
    )


class WeightsConfig(Section):
    """Which weights, and how they stand in memory."""

    model: str = Field(
        min_length=1, description="Folder, name of an installed asset, or Hugging Face hub id of the weights."
    )
    revision: str | None = Field(
        default=None, min_length=1, description="Hub commit, tag or branch; null is the default branch."
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="auto",
        description="Precision of the weights in memory; `auto` is what the weights are stored in.",
    )
    attn_implementation: str | None = Field(
        default=None,
        min_length=1,
        description="Attention kernel by its Transformers name; null lets it choose.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Whether Python code shipped with the weights may run on this machine."
    )


class ModelConfig(WeightsConfig):
    """What student and teacher have in common."""

    template: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="How a conversation becomes tokens: `chat` by the model's own chat template, `plain` as "
        "text; `auto` is `chat` where the model has a template.",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        default={}, description="Variables handed to the chat template, such as `enable_thinking: false`."
    )
    tools: Literal["template", "text"] = Field(
        default="template",
        description="How tools appear in a conversation: `template` in the form of the model's own chat "
        "template, `text` as JSON within the turns, for templates that know none.",
    )
    stop_tokens: Names | None = Field(
        default=None,
        description="Tokens that end a response, as spelled in the vocabulary; null asks the model.",
    )


class StudentConfig(ModelConfig):
    """The model that samples and is trained."""

    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: less memory, about a third more time.",
    )
    lora: LoraConfig | None = Field(
        default=None, description="Adapters to train in place of the weights; null trains the weights."
    )


class ReferenceConfig(WeightsConfig):
    """A second, smaller model with the teacher's tokenizer. It reads the teacher's own ids, so it needs no
    template."""


class TeacherConfig(ModelConfig):
    """The model that scores what the student sampled; it may have any tokenizer."""

    max_length: int | None = Field(
        default=None,
        ge=2,
        description="Longest conversation scored, in teacher tokens; null is the model's own context.",
    )
    device: str | None = Field(
        default=None,
        min_length=1,
        description="Where teacher and reference score, by torch's name such as `cuda:1` or `cpu`, the same "
        "for every process; null is the student's device.",
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Weights in 8 or 4 bits by one of two packages (`pip install 'dragoman[quantized]'`), on "
        "accelerators only; null keeps them in `dtype`.",
    )
    batch_tokens: int = Field(
        default=16384,
        ge=1,
        description="Teacher tokens, padding and a shared beginning included, that one scoring batch may "
        "hold; on CPU no more than 1,024 are read at once, which is faster.",
    )
    logit_slice: int | None = Field(
        default=None,
        ge=1,
        description="Positions whose logits exist in memory at once; null is as many as make 64 MB "
        "on CPU, 512 MB elsewhere, and at least 128. CPUs need 4 MB where the head is a plain matrix, "
        "unless `teacher.topk` is a number above 8.",
    )
    thinking: Literal["auto", "keep", "drop", "teacher-format"] = Field(
        default="auto",
        description="What the teacher sees of the student's thinking: `teacher-format` puts it between the "
        "teacher's own markers, `keep` leaves the student's markers as text, `drop` leaves it out and trains "
        "on nothing of it; `auto` is `teacher-format` where the teacher's template has markers, else `keep`.",
    )
    topk: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0,
        description="Most likely tokens kept at each position, besides the realised one; 0 keeps none, `all` "
        "the whole distribution, made of hidden states (teacher tokens x hidden size) where a method asks.",
    )
    reference: ReferenceConfig | None = Field(
        default=None,
        description="A second, smaller model of the teacher's family that scores the same tokens, for method "
        "`compass`; null is none.",
    )
