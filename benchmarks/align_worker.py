"""One side of `align_speed.py`: imports its library once, then times what it is asked to.

A request is a line of JSON on standard input, the answer a line on standard output. Seconds are those of
the processor (`process_time`), taken around each call inside this process, so neither the pipe nor the
import is measured, nor what else runs on the machine: by the clock, a call of milliseconds is interrupted
on a busy machine, one of microseconds is not, and the ratio of the two would be flattered. What has been
allocated before is frozen out of garbage collection, which would otherwise scan each library's modules in
the middle of a call and charge the larger library for it.

    {"ids": [student ids, teacher ids], "jobs": [names]}  -> {"chunks": {name: [bounds of either side]}}
    {"job": one of those, "calls": k, "warm": bool}       -> {"seconds": [k floats]}

The first request runs each job once; `warm` asks for one more call that does not count, right before those
that do, without which a short text's first call would find nothing in the processor's caches.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any, Protocol

Job = Callable[[], Any]


class Side(Protocol):
    """An aligner with two tokenizers loaded."""

    packages: tuple[str, ...]

    def jobs(self, student_ids: list[int], teacher_ids: list[int]) -> dict[str, Job]:
        """The timed calls; all that a job takes as given is made here, outside of the clock."""

    def bounds(self, chunks: Any) -> list[list[int]]:
        """What a job returned as n+1 offsets on each side."""


class TrlSide:
    """The aligner of TRL's GOLD trainer, by TRL's own functions.

    `chunks` is `ULDLoss._align_by_byte_offsets`, given each token's byte offsets as ready lists. `ids`
    is what the trainer does with sampled ids, here for both sides: `_maybe_add_completion_byte_offsets`
    from id tensors, the tensor turned into lists, then `chunks`. `sampled` does so for the student only,
    decodes its ids, and gets the teacher's ids and offsets from `encode_with_byte_offsets`.
    """

    packages: tuple[str, ...] = ("trl", "torch", "transformers")

    def __init__(self, folders: Sequence[Path]) -> None:
        from transformers import PreTrainedTokenizerFast

        gold = import_module("trl.experimental.gold.gold_trainer")
        self.align = gold.ULDLoss._align_by_byte_offsets
        self.add_byte_offsets = gold.GOLDTrainer._maybe_add_completion_byte_offsets
        self.encode = gold.encode_with_byte_offsets
        self.trainers = [
            SimpleNamespace(
                use_uld_loss=True,
                teacher_tokenizer=True,
                uld_loss_fn=SimpleNamespace(use_extended_uld=True),
                _tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
            )
            for folder in folders
        ]

    def jobs(self, student_ids: list[int], teacher_ids: list[int]) -> dict[str, Job]:
        """See the class."""
        import torch

        batches = [torch.tensor([ids]) for ids in (student_ids, teacher_ids)]
        ours, theirs = (
            self.byte_offsets(trainer, ids) for trainer, ids in zip(self.trainers, batches, strict=True)
        )

        def from_ids() -> Any:
            pairs = zip(self.trainers, batches, strict=True)
            return self.align(*(self.byte_offsets(trainer, ids) for trainer, ids in pairs))

        def from_sampled_ids() -> Any:
            student, teacher = self.trainers
            text = student._tokenizer.decode(batches[0][0], clean_up_tokenization_spaces=False)
            [(_, offsets)] = self.encode(teacher._tokenizer.backend_tokenizer, [text])
            return self.align(self.byte_offsets(student, batches[0]), offsets)

        return {"chunks": lambda: self.align(ours, theirs), "ids": from_ids, "sampled": from_sampled_ids}

    def byte_offsets(self, trainer: SimpleNamespace, ids: Any) -> Any:
        """Each token's first and last byte offset, as TRL's loss slices them from a batch of one."""
        batch = {"input_ids": ids, "labels": ids}
        self.add_byte_offsets(trainer, batch)
        return batch["byte_offsets"][0].tolist()

    def bounds(self, chunks: Any) -> list[list[int]]:
        """TRL's groups are lists of token positions."""
        return [[0, *accumulate(map(len, groups))] for groups in chunks]


class DragomanSide:
    """`dragoman.alignment.align`.

    `chunks` is given both TokenText values. `ids` starts from id arrays: `Tokenization.spell`, then `align`,
    the same work as TRL's, though the bytes are compared as well as counted. `sampled` is
    what training does: `Tokenization.view` of the student's ids, which also re-tokenises their text to
    tell canonical tokens from others (TRL does not ask), `Tokenization.encode` for the teacher, `align`.
    """

    packages: tuple[str, ...] = ("dragoman", "numpy", "tokenizers")

    def __init__(self, folders: Sequence[Path]) -> None:
        from dragoman.alignment import align
        from dragoman.text import Tokenization

        self.align = align
        self.tokenizations = [Tokenization.from_pretrained(str(folder)) for folder in folders]

    def jobs(self, student_ids: list[int], teacher_ids: list[int]) -> dict[str, Job]:
        """See the class."""
        import numpy as np

        pairs = [
            (tokenization, np.array(ids, np.int64))
            for tokenization, ids in zip(self.tokenizations, (student_ids, teacher_ids), strict=True)
        ]
        ours, theirs = (tokenization.spell(ids) for tokenization, ids in pairs)

        def from_sampled_ids() -> Any:
            (student, sampled), (teacher, _) = pairs
            viewed = student.view(sampled)
            return self.align(viewed, teacher.encode(viewed.data))

        return {
            "chunks": lambda: self.align(ours, theirs),
            "ids": lambda: self.align(*(tokenization.spell(ids) for tokenization, ids in pairs)),
            "sampled": from_sampled_ids,
        }

    def bounds(self, chunks: Any) -> list[list[int]]:
        """An Alignment holds them as arrays."""
        return [chunks.student_bounds.tolist(), chunks.teacher_bounds.tolist()]


SIDES: dict[str, Callable[[Sequence[Path]], Side]] = {"trl": TrlSide, "dragoman": DragomanSide}


def main() -> int:
    """Answer requests until standard input ends."""
    parser = argparse.ArgumentParser(description="one side of align_speed.py")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path)
    args = parser.parse_args()
    # Libraries may print; the pipe is for answers alone.
    answers, sys.stdout = sys.stdout, sys.stderr
    side: Side = SIDES[args.side]([args.student, args.teacher])
    hello = {name: importlib.metadata.version(name) for name in side.packages}
    print(json.dumps({"packages": hello}), file=answers, flush=True)
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "ids" in request:
            made = side.jobs(*request["ids"])
            jobs = {name: made[name] for name in request["jobs"]}
            answer: dict[str, Any] = {"chunks": {name: side.bounds(job()) for name, job in jobs.items()}}
        else:
            answer = {"seconds": timed(jobs[request["job"]], request["calls"], request["warm"])}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def timed(job: Job, calls: int, warm: bool) -> list[float]:
    """Seconds of each of `calls` calls; `warm`: after one that is not counted."""
    gc.collect()
    gc.freeze()
    if warm:
        job()
    seconds = []
    for _ in range(calls):
        start = process_time()
        job()
        seconds.append(process_time() - start)
    gc.unfreeze()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
