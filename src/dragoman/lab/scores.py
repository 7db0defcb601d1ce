"""What a world's teacher says of a text at each level: the values that a scored response would have."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.lab.bench import Bench
from dragoman.types import DropReason, HeldLogp, TeacherScores


class ScoreBook:
    """Scores of every text, made when first asked for. `topk` is the setting `teacher.topk`: 0 for the
    realised tokens alone, a number of likeliest tokens, or `"all"` for whole distributions."""

    def __init__(self, bench: Bench, topk: int | str) -> None:
        self._bench = bench
        self._topk = topk
        self._found: dict[int, TeacherScores] = {}

    def of_text(self, index: int) -> TeacherScores:
        """Scores of one text, its teacher tokens among them."""
        if index not in self._found:
            self._found[index] = self._score(index)
        return self._found[index]

    def _score(self, index: int) -> TeacherScores:
        teacher = self._bench.teacher
        text, logp = teacher.texts[index], teacher.logp[index].astype(np.float32)
        size = len(text)
        full = topk_ids = topk_logp = None
        laws = self._laws(index)
        if self._topk == "all":
            full = HeldLogp(laws.astype(np.float32))
        elif self._topk:
            width = min(int(self._topk), laws.shape[1])
            # Stable, so that ties are cut alike everywhere.
            topk_ids = np.argsort(-laws, axis=1, kind="stable")[:, :width].astype(np.int32)
            topk_logp = np.take_along_axis(laws, topk_ids.astype(np.int64), axis=1).astype(np.float32)
        return TeacherScores(
            logp=logp,
            missing=np.full(size, DropReason.NONE, np.uint8),
            topk_ids=topk_ids,
            topk_logp=topk_logp,
            stop_logp=laws[:, min(self._bench.world.teacher.stop_ids)].astype(np.float32),
            full_logp=full,
            tokens=text,
        )

    def _laws(self, index: int) -> Float64[np.ndarray, "T V"]:
        """Log-probs of all teacher tokens at every place of a text."""
        teacher = self._bench.teacher
        ids = teacher.texts[index].ids.tolist()
        found = np.full((len(ids), self._bench.world.teacher.num_ids), -np.inf)
        for place in range(len(ids)):
            law = teacher.next_law(tuple(ids[:place]))
            found[place, list(law)] = np.log(list(law.values()))
        return found
