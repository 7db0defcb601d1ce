"""The configuration tree. A field's description is its documentation: `docs/configuration.md` and
every error message are made from it.

Defaults are plain here. A method may bring its own (see `dragoman.config.loading`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from dragoman.config.method import MethodConfig
from dragoman.config.models import StudentConfig, TeacherConfig
from dragoman.config.section import Names, Section

MICRO_BATCH_TOKENS = {"cpu": 512}
"""Where products of more rows are no faster, so that more tokens only take more memory."""
Beta = Annotated[float, Field(ge=0, lt=1)]


class RunConfig(Section):
    """Where the run is written and how it is seeded."""

    dir: str = Field(
        default="runs/run",
        min_length=1,
        description="Folder of the run; if left out, `runs/` and the name of the configuration file.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed from which every random draw of the run is derived."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads PyTorch uses within an operation; null measures at the start, on CPU, how many "
        "pay while sampling, and otherwise. Runs that are to be equal to the last bit need a number.",
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        default="highest",
        description="How matrix products in float32 are made (`torch.set_float32_matmul_precision`): `high` "
        "takes TF32 on GPUs that have it, `medium` bfloat16 within the product, also on CPUs with AMX.",
    )
    trackers: Names = Field(
        default=("tensorboard",),
        description="Experiment trackers to send metrics to, by their Accelerate names; may be empty.",
    )
    project: str = Field(default="dragoman", min_length=1, description="Project name shown by the trackers.")
    log_rollouts: int = Field(default=16, ge=0, description="Rollouts written to `rollouts/` at each step.")


class DataConfig(Section):
    """The prompts: one a line, as text or as a conversation that ends before the answer."""

    train: str = Field(
        min_length=1,
        description="Prompts to train on: a JSON Lines or Parquet file, or the name of a Hugging Face data "
        "set (`name` or `name:subset`).",
    )
    heldout: str | None = Field(
        default=None,
        min_length=1,
        description="Prompts to evaluate on, as for `data.train`; null evaluates nothing.",
    )
    prompt_field: str = Field(
        default="prompt", min_length=1, description="Field that holds a prompt as text."
    )
    messages_field: str = Field(
        default="messages", min_length=1, description="Field that holds a prompt as a list of messages."
    )
    split: str = Field(
        default="train",
        min_length=1,
        description="Split to read from a Hugging Face data set; unused for files.",
    )
    limit: int | None = Field(default=None, ge=1, description="Training prompts read; null reads all.")
    heldout_limit: int | None = Field(
        default=None, ge=1, description="Held-out prompts read; null reads all."
    )
    shuffle: bool = Field(
        default=True, description="Draw prompts in a new random order every epoch, else in file order."
    )

    @model_validator(mode="after")
    def _fields_differ(self) -> Self:
        if self.prompt_field == self.messages_field:
            raise ValueError(
                f"prompt_field and messages_field are both {self.prompt_field!r}, so a line could not say "
                "which of the two it holds; give the unused one another name"
            )
        return self


class RolloutConfig(Section):
    """How the student answers."""

    engine: Literal["sample", "replay", "recorded"] = Field(
        default="sample",
        description="`sample` lets the student answer in this process; `replay` reads recorded rollouts; "
        "`recorded` takes the turns marked `sampled` in the data, and asks the student for log-probs.",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="Longest response, in student tokens.")
    samples_per_prompt: int = Field(
        default=1, ge=1, description="Responses sampled for each prompt of a step."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Divides the logits before sampling; 1 samples from the model as it is.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Probability mass of the most likely tokens sampled from; 1 keeps all.",
    )
    top_k: int = Field(default=0, ge=0, description="Number of most likely tokens sampled from; 0 keeps all.")
    stop_strings: Names = Field(
        default=(),
        description="Texts that end a response where the student writes one; they stay part of it.",
    )
    batch_size: int = Field(default=16, ge=1, description="Responses sampled at once.")
    compile: bool = Field(
        default=False,
        description="Compile the student's layers for sampling. Needs a C++ compiler (on CPU) and half a "
        "minute at the start of a run; where it fails, layers run as they are, with a warning.",
    )
    replay: str | None = Field(
        default=None,
        min_length=1,
        description="File or folder of recorded rollouts, for the engine `replay`.",
    )

    @model_validator(mode="after")
    def _replay_matches_engine(self) -> Self:
        if self.engine == "replay" and self.replay is None:
            raise ValueError(
                "engine is 'replay', but rollout.replay does not say which recorded rollouts; set it to a "
                "file, or to the rollouts folder of an earlier run"
            )
        if self.engine != "replay" and self.replay is not None:
            raise ValueError(
                f"replay is {self.replay!r}, but engine {self.engine!r} would ignore it; set rollout.engine "
                "to 'replay', or leave rollout.replay out"
            )
        return self


class TrainConfig(Section):
    """The optimiser and the loop around it."""

    steps: int = Field(ge=1, description="Steps of the run; each samples, scores and updates once.")
    prompts_per_step: int = Field(default=16, ge=1, description="Prompts answered in a step.")
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Student tokens, padding included, in one forward and backward pass; null is 512 on "
        "CPU, 4096 elsewhere.",
    )
    packing: bool = Field(
        default=True,
        description="Lay short sequences behind each other in one row in place of padding, where the model "
        "keeps them apart.",
    )
    minibatches: int = Field(
        default=1, ge=1, description="Parts a step's rollouts are divided into, with one optimiser step each."
    )
    epochs: int = Field(default=1, ge=1, description="Passes over a step's rollouts.")
    max_staleness: int = Field(
        default=0,
        ge=0,
        le=1,
        description="Steps by which the weights that sample a batch may be behind; with 1 the next batch is "
        "sampled before an update and scored while it runs, for a teacher with a device of its own.",
    )
    lr: float = Field(default=1e-5, ge=0, description="Learning rate of AdamW after warm-up.")
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = Field(
        default=(0.9, 0.999), description="Decay rates of AdamW's first and second moment."
    )
    eps: float = Field(default=1e-8, gt=0, description="Added to the denominator of AdamW's update.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of AdamW.")
    warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the learning rate rises linearly to its value."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant",
        description="Course of the learning rate after warm-up; all but `constant` end at 0.",
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="Norm to which longer gradients are scaled; null does not scale."
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="Precision of the arithmetic in training; `no` is that of the weights."
    )
    save_every: int = Field(
        default=0,
        ge=0,
        description="Steps between checkpoints, the last step always among them; 0 writes only the "
        "final model.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Latest checkpoints kept; older ones are deleted."
    )
    min_coverage: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of student tokens with a signal below which the run stops.",
    )
    logit_slice: int | None = Field(
        default=None,
        ge=1,
        description="Positions whose logits exist in memory at once; null is as many as make 64 MB "
        "on CPU, 512 MB elsewhere, and at least 128.",
    )
    loss_impl: Literal["auto", "torch", "cce", "liger"] = Field(
        default="auto",
        description="What makes the loss of an output head: `torch`, head and loss in one pass; on GPUs "
        "selected log-probs by the kernels of `cce` (cut-cross-entropy) or `liger`, where the loss reads "
        "nothing else, and where they do not fit `torch` with a line in the log. `auto` is `torch`.",
    )

    def batch_tokens(self, device_type: str) -> int:
        """`micro_batch_tokens` on a kind of device, such as `cpu`."""
        return self.micro_batch_tokens or MICRO_BATCH_TOKENS.get(device_type, 4096)


class EvalConfig(Section):
    """Measurements on the held-out prompts."""

    every: int = Field(
        default=0, ge=0, description="Steps between evaluations; 0 evaluates before and after training only."
    )
    samples: int = Field(default=1, ge=1, description="Responses sampled for each held-out prompt.")
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest response, in student tokens; null is `rollout.max_new_tokens`.",
    )
    seed: int = Field(
        default=1234,
        ge=0,
        le=2**32 - 1,
        description="Seed of the sampled responses, the same at every evaluation.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Responses sampled at once; null is `rollout.batch_size`."
    )
    forward: bool = Field(
        default=False,
        description="Whether the teacher writes a response to each held-out prompt too, once, on which every "
        "evaluation measures the forward KL of the student.",
    )


class Config(Section):
    """Everything a run depends on, resolved: defaults, the method's defaults, the file, the overrides."""

    run: RunConfig = Field(default_factory=RunConfig, description="Where the run is written; its seed.")
    student: StudentConfig = Field(description="The model that samples and is trained.")
    teacher: TeacherConfig = Field(description="The model that scores.")
    data: DataConfig = Field(description="The prompts.")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="How the student answers.")
    method: MethodConfig = Field(default_factory=MethodConfig, description="From scores to a loss.")
    train: TrainConfig = Field(description="The optimiser and the loop.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Measurements on held-out prompts.")

    @model_validator(mode="after")
    def _minibatches_have_rollouts(self) -> Self:
        rollouts = self.train.prompts_per_step * self.rollout.samples_per_prompt
        if self.train.minibatches > rollouts:
            raise ValueError(
                f"train.minibatches is {self.train.minibatches}, but a step has only {rollouts} rollouts "
                f"(train.prompts_per_step × rollout.samples_per_prompt), so some would be empty; "
                f"set train.minibatches to at most {rollouts}"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_has_prompts(self) -> Self:
        if self.eval.forward and self.data.heldout is None:
            raise ValueError(
                "eval.forward is true, but data.heldout is not set, so there is nothing for the teacher to "
                "answer; name held-out prompts, or set eval.forward to false"
            )
        if self.eval.every > 0 and self.data.heldout is None:
            raise ValueError(
                f"eval.every is {self.eval.every}, but data.heldout is not set, so there is nothing to "
                "evaluate on; name held-out prompts, or set eval.every to 0"
            )
        return self

    def to_json(self) -> str:
        """The tree as indented JSON; `load_config` reads it back to an equal tree."""
        return self.model_dump_json(indent=2) + "\n"
