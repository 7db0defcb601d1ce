"""One side of `step_vs_trl.py`: builds its trainer once, then makes a step for each line it is sent.

    python step_worker.py trl|dragoman SETTINGS.json

The answer to the first line is written when the models are loaded, each further one when a step is done:
{"seconds", "peak_bytes" (of the whole process, during the step), "tokens" (sampled), "stages"}; dragoman's
side adds, for the stages "teacher" and "update", "flops" and "head_share" (of all tokens, those that pass the
head).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from memory import forget_peak, resident

Settings = dict[str, Any]
UPDATE = ("forward", "loss", "backward")
"""Stages of an update that are products."""


class Pipe:
    """The driver's end; what libraries print to standard output goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def answer(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()

    def wait(self) -> bool:
        """Wait for the next request; False where there are no more."""
        return bool(sys.stdin.readline())


def run_dragoman(settings: Settings, pipe: Pipe) -> None:
    """Steps of `dragoman train`, without its evaluations and files."""
    from dragoman.api import as_prompts
    from dragoman.config import load_config
    from dragoman.methods import method_defaults
    from dragoman.models.flops import student_lengths, teacher_lengths
    from dragoman.pipeline import Stopwatch
    from dragoman.rollout import Request
    from dragoman.train.profile import stage_flops
    from dragoman.train.setup import build_session

    keys = {
        "data.train": "prompts of the benchmark",
        "run.dir": settings["work"],
        "run.threads": settings["threads"],
        "run.trackers": [],
        "student.model": settings["student"],
        "student.dtype": "float32",
        "teacher.model": settings["teacher"],
        "teacher.dtype": "float32",
        "method.name": settings["method"],
        "rollout.max_new_tokens": settings["new_tokens"],
        "rollout.batch_size": settings["batch"],
        "train.steps": 1000,
        "train.prompts_per_step": settings["batch"],
        "train.lr": settings["lr"],
        **settings["overrides"],
    }
    config = load_config({}, [f"{key}={json.dumps(value)}" for key, value in keys.items()], method_defaults)
    prompts = as_prompts(settings["prompts"], "train")
    session = build_session(config, Path(settings["work"]), prompts, [])
    pipe.answer(packages=versions("dragoman", "torch", "transformers"), bytes=resident("VmRSS"))
    step = 0
    while pipe.wait():
        step += 1
        forget_peak()
        watch, began = Stopwatch(), time.perf_counter()
        requests = [Request(prompt=prompt, sample=0) for prompt in prompts]
        records = session.pipeline.records(requests, seed=0, step=step, watch=watch)
        with watch.stage("update"):
            session.updater.update(records, step)
        seconds = time.perf_counter() - began
        tokens = sum(len(record.rollout.completion) for record in records)
        scored = sum(len(record.view.completion) for record in records if record.view is not None)
        supervised = [record.supervision for record in records if record.supervision is not None]
        trained = sum(int((one.weight > 0).sum()) for one in supervised)
        pipe.answer(
            seconds=seconds,
            peak_bytes=resident("VmHWM"),
            tokens=tokens,
            stages=dict(watch.seconds),
            flops={
                "teacher": stage_flops(session, "teacher", records),
                "update": sum(stage_flops(session, name, records) or 0 for name in UPDATE),
            },
            head_share={
                "teacher": scored / int(teacher_lengths(records).sum()),
                "update": trained / int(student_lengths(records).sum()),
            },
        )


def run_trl(settings: Settings, pipe: Pipe) -> None:
    """Steps of GOLD's own training loop, which stops at the beginning of each."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.gold import GOLDTrainer

    torch.set_num_threads(settings["threads"])

    class Turns(TrainerCallback):  # type: ignore[misc]
        """A step begins when the driver says so."""

        began = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not pipe.wait():
                os._exit(0)
            forget_peak()
            stages.clear()
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds = time.perf_counter() - self.began
            tokens = int(stages.pop("tokens", 0))
            pipe.answer(seconds=seconds, peak_bytes=resident("VmHWM"), tokens=tokens, stages=dict(stages))

    stages: dict[str, float] = {}

    class Trainer(GOLDTrainer):  # type: ignore[misc]
        """GOLD, which says how long it sampled and how much."""

        def generate_on_policy_outputs(self, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = super().generate_on_policy_outputs(*args, **kwargs)
            stages["rollout"] = stages.get("rollout", 0.0) + time.perf_counter() - began
            stages["tokens"] = stages.get("tokens", 0) + int((result[2] != -100).sum())
            return result

    student = AutoModelForCausalLM.from_pretrained(settings["student_folder"], dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(settings["teacher"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(settings["student_folder"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}
        for text in settings["prompts"]
    ]
    trainer = Trainer(
        model=student,
        teacher_model=teacher,
        args=gold_config(settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    pipe.answer(packages=versions("trl", "torch", "transformers"), bytes=resident("VmRSS"))
    trainer.train()


def gold_config(settings: Settings) -> Any:
    """GOLD's settings: on policy alone, the whole distribution, no files."""
    from trl.experimental.gold import GOLDConfig

    return GOLDConfig(
        output_dir=settings["work"],
        per_device_train_batch_size=settings["batch"],
        max_steps=1000,
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        temperature=1.0,
        top_p=1.0,
        lmbda=1.0,
        max_completion_length=settings["new_tokens"],
        max_length=4096,
        use_uld_loss=True,
        uld_use_hybrid_loss=settings["hybrid"],
        teacher_tokenizer_name_or_path=settings["teacher"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    {"trl": run_trl, "dragoman": run_dragoman}[sys.argv[1]](settings, Pipe())
