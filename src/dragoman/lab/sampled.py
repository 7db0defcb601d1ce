"""Credits of many paths at once, by one call of the shipped rule.

All that does not depend on the student is worked out for every path of the world beforehand: guard,
segments, the teacher's log-probs of student tokens. A test holds the credits equal to those that
`supervise_sampled` gives path by path.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from dragoman.config import MethodConfig
from dragoman.lab.bench import Bench, ragged
from dragoman.lab.scores import ScoreBook
from dragoman.supervise import CREDITS, Boundaries, Chunks, Guard, Marginals
from dragoman.supervise.credit import BOUNDED, STEPPED, OpenAccounts
from dragoman.supervise.credit.span import coupling
from dragoman.supervise.guard import Guarded, guarded, spread
from dragoman.types import DropReason


class PathCredits:
    """One credit rule under a configuration, on all paths of a world."""

    def __init__(self, bench: Bench, rule: str, config: MethodConfig, scores: ScoreBook) -> None:
        """`scores` are what the teacher says of each text, for rules that need more than totals."""
        self.bench = bench
        self.rule = CREDITS[rule]
        self.config = config
        chunks = bench.chunks
        reason = self._reasons()
        segments: Int64[np.ndarray, " C"] | None = None
        odd = chunks.is_odd
        is_open = isinstance(self.rule, OpenAccounts)
        boundaries = Boundaries.of_pair(bench.tables) if rule in BOUNDED else None
        path_of_chunk = np.repeat(np.arange(len(bench.paths.text_of)), np.diff(chunks.path_bounds))
        if boundaries is not None and is_open:
            # Numbers jump from path to path, as the spans of two paths do not touch.
            found = boundaries.span_of(chunks.text, chunks.alignment, reason == DropReason.NONE)
            segments = found + 2 * path_of_chunk
            odd = spread(odd, segments)
        self.verdict: Guarded = guarded(Guard(config.guard), reason, odd)
        if boundaries is not None and segments is None:
            found = boundaries.segment_of(chunks.text, chunks.alignment, self.verdict.counts)
            segments = found + 2 * path_of_chunk
        self._segments = segments
        self._steps: _Steps | None = None
        if rule in STEPPED:
            self._steps = _Steps(bench, scores, self.verdict.counts)

    def credit(
        self,
        paths: Int64[np.ndarray, " P"],
        logp: Float64[np.ndarray, " N"],
        counts: Int64[np.ndarray, " P"] | Float64[np.ndarray, " P"],
    ) -> Float64[np.ndarray, " N"]:
        """Credits of the tokens of some paths, one path behind the other; `logp` are the student's.

        `counts` say how often each path was drawn, or with which probability: some rules look at all
        responses of a step. Tokens without a signal have 0.
        """
        chunks = self.bench.chunks
        tokens, _ = ragged(self.bench.paths.bounds, paths)
        number, sizes = ragged(chunks.path_bounds, paths)
        first = chunks.path_bounds[paths]
        shift = np.cumsum(sizes) - sizes - first
        kept = self.verdict.counts[number]
        num_student = chunks.num_student[number]
        of = chunks.chunk_of[tokens] + np.repeat(shift, np.diff(self.bench.paths.bounds)[paths])
        counted = np.where(kept[of], logp, 0.0)
        found = Chunks(
            logp=counted,
            chunk_of=of,
            num_student=num_student,
            student_sum=np.add.reduceat(counted, np.cumsum(num_student) - num_student),
            teacher_sum=np.where(kept, chunks.teacher_sum[number], 0.0),
            counts=kept,
            segment_of=self._segment_of(paths, number, sizes),
            step_logp=None if self._steps is None else self._steps.of(paths, tokens),
        )
        drawn = np.repeat(np.asarray(counts, np.float64), sizes)
        credit = self._rule_credit(found, drawn)
        if self.config.clamp is not None:
            credit = np.clip(credit, -self.config.clamp, self.config.clamp)
        credit = np.where(kept[of], credit, 0.0)
        level = self._level(credit, kept[of], drawn[of])
        settled: Float64[np.ndarray, " N"] = np.where(
            self.verdict.penalised[number][of], level - self.config.guard_penalty, credit
        )
        return settled

    def _rule_credit(self, chunks: Chunks, drawn: Float64[np.ndarray, " C"]) -> Float64[np.ndarray, " N"]:
        """What the rule gives; `drawn` is how often each chunk was."""
        if not isinstance(self.rule, OpenAccounts):
            return self.rule(chunks)
        found = self.rule.accounts(chunks)
        share = coupling(found.pairs, drawn[found.first_of_pair])
        credit: Float64[np.ndarray, " N"] = (found.own + share * found.neighbours)[chunks.chunk_of]
        return credit

    def _level(
        self,
        credit: Float64[np.ndarray, " N"],
        kept: Bool[np.ndarray, " N"],
        drawn: Float64[np.ndarray, " N"],
    ) -> float:
        """What a penalty is below (`supervise.settle`): the mean credit, at most 0; 0 if it is absolute."""
        weight = np.where(kept, drawn, 0.0)
        if not isinstance(self.rule, OpenAccounts) or not weight.any():
            return 0.0
        return min(float(np.average(credit, weights=weight)), 0.0)

    def _segment_of(
        self, paths: Int64[np.ndarray, " P"], number: Int64[np.ndarray, " C"], sizes: Int64[np.ndarray, " P"]
    ) -> Int64[np.ndarray, " C"] | None:
        """Segments counted on from path to path, with a jump between two."""
        if self._segments is None:
            return None
        bounds = self.bench.chunks.path_bounds
        lowest, highest = self._segments[bounds[paths]], self._segments[bounds[paths + 1] - 1]
        widths = highest - lowest + 2
        shift = np.cumsum(widths) - widths - lowest
        found: Int64[np.ndarray, " C"] = self._segments[number] + np.repeat(shift, sizes)
        return found

    def _reasons(self) -> UInt8[np.ndarray, " C"]:
        """Why chunks have no signal, the guard aside: their length, as nothing else is amiss in a world."""
        chunks, limit = self.bench.chunks, self.config.max_chunk_tokens
        longest = np.maximum(chunks.num_student, chunks.num_teacher)
        too_long = longest > limit if limit is not None else np.zeros(len(longest), bool)
        return np.where(too_long, DropReason.CHUNK_TOO_LONG, chunks.alignment.reasons).astype(np.uint8)


class _Steps:
    """The teacher's log-prob of every student token (`supervise.marginal`), by path when first asked for.

    Chunks of equal tokens behind equal teacher tokens have equal ones, and are worked out once.
    """

    def __init__(self, bench: Bench, scores: ScoreBook, counts: Bool[np.ndarray, " C"]) -> None:
        self._bench = bench
        self._scores = scores
        self._counts = counts
        self._marginals = Marginals(bench.tables)
        self._logp = np.full(len(bench.paths.edge), np.nan)
        self._is_done = np.zeros(len(bench.paths.text_of), bool)
        self._known: dict[tuple[bytes, ...], Float64[np.ndarray, " m"]] = {}

    def of(
        self, paths: Int64[np.ndarray, " P"], tokens: Int64[np.ndarray, " N"]
    ) -> Float64[np.ndarray, " N"]:
        for path in np.unique(paths[~self._is_done[paths]]).tolist():
            self._find(path)
        found: Float64[np.ndarray, " N"] = self._logp[tokens]
        return found

    def _find(self, path: int) -> None:
        bench = self._bench
        first, last = bench.chunks.path_bounds[path : path + 2].tolist()
        counts = self._counts[first:last].copy()
        alignment, text = bench.chunks.alignment_of(path), bench.chunks.student_of(path)
        written = bench.teacher.texts[int(bench.paths.text_of[path])]
        starts, ends = alignment.student_bounds[:-1], alignment.student_bounds[1:]
        keys = [
            (written.ids[:before].tobytes(), written.ids[before:after].tobytes(), text.ids[a:b].tobytes())
            for before, after, a, b in zip(
                alignment.teacher_bounds[:-1], alignment.teacher_bounds[1:], starts, ends, strict=True
            )
        ]
        fresh = counts & np.array([key not in self._known for key in keys])
        own = bench.paths.bounds[path]
        if fresh.any():
            scores = self._scores.of_text(int(bench.paths.text_of[path]))
            steps = self._marginals.steps(text, scores, alignment, fresh)
            for chunk in np.flatnonzero(fresh).tolist():
                self._known[keys[chunk]] = steps[starts[chunk] : ends[chunk]]
        for chunk in np.flatnonzero(counts).tolist():
            self._logp[own + starts[chunk] : own + ends[chunk]] = self._known[keys[chunk]]
        self._is_done[path] = True
