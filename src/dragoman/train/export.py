"""The trained student as an ordinary Hugging Face folder, with a card that says what taught it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.config import Config
from dragoman.errors import CheckpointError
from dragoman.render import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDER = "final"


def save_final(
    run: Path, model: PreTrainedModel, student: Renderer, config: Config, summary: dict[str, Any]
) -> Path:
    """Write `final/`: weights (or a LoRA adapter), tokenizer, generation config and model card."""
    target, partial = run / FOLDER, run / f"{FOLDER}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        student.tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(model_card(config, summary), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"could not write the final model to {target}: {error}. Free space and run again; with "
            "train.save_every set, --resume goes on from the last checkpoint"
        ) from error
    return target


def model_card(config: Config, summary: dict[str, Any]) -> str:
    """The model card, in the hub's Markdown."""
    lines = [
        "---",
        "library_name: transformers" if config.student.lora is None else "library_name: peft",
        f"base_model: {config.student.model}",
        "tags: [dragoman, distillation, on-policy-distillation]",
        "---",
        "",
        f"# {config.student.model}, taught by {config.teacher.model}",
        "",
        f"Distilled with dragoman, method `{config.method.name}`, "
        f"{summary['steps']} steps of {config.train.prompts_per_step} prompts with "
        f"{config.rollout.samples_per_prompt} response each, learning rate {config.train.lr:g}.",
        "The two models need not share a tokenizer: every response was aligned on its bytes.",
        "",
    ]
    before, after = summary.get("before"), summary.get("after")
    if before and after:
        lines += [
            "| held-out prompts | before | after |",
            "|---|---|---|",
            *(
                f"| {label} | {before[name]:.4f} | {after[name]:.4f} |"
                for label, name in (
                    ("reverse KL to the teacher, nats a byte", "kl_per_byte"),
                    ("teacher bits a byte", "teacher_bits_per_byte"),
                    ("non-canonical tokens", "noncanonical_rate"),
                    ("finished responses", "stop_rate"),
                )
            ),
            "",
        ]
    lines.append("The licences of both models apply; `config.resolved.json` of the run has every setting.")
    return "\n".join(lines) + "\n"
