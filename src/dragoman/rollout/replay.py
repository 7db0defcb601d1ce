"""Rollouts from a recording, in place of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dragoman.errors import DataError
from dragoman.observe import read_records
from dragoman.rollout.engine import Request
from dragoman.text import Tokenization
from dragoman.types import Rollout


class ReplayEngine:
    """Answers requests from recorded rollouts of the same prompts, matched by prompt key and sample: with all
    turns of a conversation.

    The latest recording wins, turns of two recordings are never mixed. The ids must belong to the student's
    tokenizer: they are read again, so canonical flags and events are this tokenizer's.
    """

    def __init__(self, place: Path, student: Tokenization) -> None:
        paths = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
        if not paths or not all(path.is_file() for path in paths):
            raise DataError(
                f"no recorded rollouts in {place}; rollout.replay takes a file, or a run's rollouts folder"
            )
        self._place = place
        self._recorded: dict[tuple[str, int], dict[int, Rollout]] = {}
        steps: dict[tuple[str, int], int] = {}
        for path in paths:
            for record in read_records(path):
                rollout = record.rollout
                completion = student.view(rollout.completion.ids)
                if completion.data != rollout.completion.data:
                    raise DataError(
                        f"{path}: rollout {rollout.key} was not written with the tokenizer of "
                        f"{student.name!r}: its ids spell other bytes there. Replay it with the student that "
                        "sampled it"
                    )
                name = (rollout.prompt.key, rollout.sample)
                turns = self._recorded.get(name, {})
                if rollout.turn in turns or steps.get(name) != record.step:
                    turns = {}
                steps[name] = record.step
                self._recorded[name] = {**turns, rollout.turn: replace(rollout, completion=completion)}

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """The recorded rollouts, in the order of requests and turns; see `RolloutEngine`."""
        found: list[Rollout] = []
        for request in requests:
            name = (request.prompt.key, request.sample)
            if name not in self._recorded:
                raise DataError(
                    f"step {step} asks for rollout {name[0]}/{name[1]}, which {self._place} does not hold; "
                    "record rollouts of the same prompts with run.log_rollouts large enough, or limit "
                    "data.train to those recorded"
                )
            turns = self._recorded[name]
            found.extend(turns[turn] for turn in sorted(turns))
        return found
