"""A process that aligns: `worker.py dragoman|trl FOLDER...`, the folders named as the tokenizers are.

TRL lives in an environment of its own, so its aligner runs in a process of that environment, all others in
one of ours. A request is a line of JSON on standard input, its answer a line on standard output:

    {"aligner": name, "student": name, "teacher": name, "ids": [ids of the student]}
        -> {"seconds": s, "teacher_ids": [...], "chunks": [[s0, s1, t0, t1], ...], "text": str | null}
        or {"raises": "message"}

The job is the whole of it, as in training: from sampled ids to teacher ids and chunks. Seconds are taken by
`perf_counter` around it, inside the process.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

Align = Callable[[str, str, list[int]], tuple[list[int], list[tuple[int, int, int, int]], str | None]]


def dragoman_aligner(folders: dict[str, Path]) -> Align:
    """`Tokenization.view` of the sampled ids, `Tokenization.place` for the teacher, `align`."""
    from dragoman.alignment import align
    from dragoman.text import Tokenization

    tokenizations = {name: Tokenization.from_pretrained(str(folder)) for name, folder in folders.items()}

    def run(student: str, teacher: str, ids: list[int]) -> Any:
        response = tokenizations[student].view(ids)
        placed = tokenizations[teacher].place(response.data)
        found = align(response, placed.text, placed.correspondence)
        bounds = (found.student_bounds, found.teacher_bounds)
        used = (side[found.comparable] for b in bounds for side in (b[:-1], b[1:]))
        return placed.text.ids.tolist(), list(zip(*(side.tolist() for side in used), strict=True)), None

    return run


def trl_aligner(folders: dict[str, Path]) -> Align:
    """What TRL's GOLD trainer does with sampled ids, by its own functions (see `align_worker.py`)."""
    import torch
    from align_worker import TrlSide

    side = TrlSide(list(folders.values()))
    trainers = dict(zip(folders, side.trainers, strict=True))

    def run(student: str, teacher: str, ids: list[int]) -> Any:
        batch = torch.tensor([ids])
        text = trainers[student]._tokenizer.decode(batch[0], clean_up_tokenization_spaces=False)
        [(teacher_ids, offsets)] = side.encode(trainers[teacher]._tokenizer.backend_tokenizer, [text])
        groups = side.align(side.byte_offsets(trainers[student], batch), offsets)
        starts_s, starts_t = ([0, *accumulate(map(len, part))] for part in groups)
        chunks = zip(starts_s[:-1], starts_s[1:], starts_t[:-1], starts_t[1:], strict=True)
        return teacher_ids, list(chunks), text

    return run


def naive_aligners(folders: dict[str, Path]) -> dict[str, Align]:
    """The baselines of `naive.py`."""
    import naive

    loaded = naive.Tokenizers(folders)
    functions = {"strings": naive.by_strings, "offsets": naive.by_offsets, "difflib": naive.by_difflib}
    return {name: partial(function, loaded) for name, function in functions.items()}


def main() -> int:
    """Answer requests until standard input ends."""
    parser = argparse.ArgumentParser(description="the aligners of one environment")
    parser.add_argument("environment", choices=["dragoman", "trl"])
    parser.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    # Libraries may print; the pipe is for answers alone.
    answers, sys.stdout = sys.stdout, sys.stderr
    folders = {folder.name: folder for folder in args.folders}
    if args.environment == "trl":
        aligners, packages = {"trl": trl_aligner(folders)}, ("trl", "torch", "transformers", "tokenizers")
    else:
        aligners = {"dragoman": dragoman_aligner(folders), **naive_aligners(folders)}
        packages = ("dragoman", "numpy", "transformers", "tokenizers")
    hello = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"packages": hello}), file=answers, flush=True)
    gc.collect()
    gc.freeze()  # what is loaded is not scanned again in the middle of a call
    for line in sys.stdin:
        request = json.loads(line)
        job = partial(aligners[request["aligner"]], request["student"], request["teacher"], request["ids"])
        print(json.dumps(answer(job)), file=answers, flush=True)
    return 0


def answer(job: Callable[[], Any]) -> dict[str, Any]:
    """What a job returns and how long it takes, or what it raises."""
    start = perf_counter()
    try:
        teacher_ids, chunks, text = job()
    except Exception as error:  # noqa: BLE001 - that an aligner raises is a result
        return {"raises": f"{type(error).__name__}: {error}"[:200]}
    seconds = perf_counter() - start
    return {"seconds": seconds, "teacher_ids": teacher_ids, "chunks": chunks, "text": text}


if __name__ == "__main__":
    sys.exit(main())
