"""Methods with rows or units, by the shipped supervision and objective.

What a path is told about its tokens does not depend on the student, credits aside, and is made once. The
shipped code then scores a batch of it (`train.scored`) as it does in training, except that the distributions
come from the table that a student of a world is; torch differentiates the loss with respect to that table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.lab.bench import Bench, ragged
from dragoman.lab.sampled import PathCredits
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import Counts, Push, Student
from dragoman.methods import Method, Sorts
from dragoman.models import Candidates, TokenScores
from dragoman.models.candidates import candidate_masses
from dragoman.objective import Objective, modified
from dragoman.train.ragged import joined_rows, joined_sorted, joined_units
from dragoman.train.scored import score_batch
from dragoman.types import Prompt, Rollout, Rows, Supervision, TrainBatch


class ObjectiveSignal:
    """A method on a world through its supervision and its objective."""

    def __init__(
        self,
        bench: Bench,
        method: Method,
        config: MethodConfig,
        scores: ScoreBook,
        credits: PathCredits | None,
    ) -> None:
        """`credits` are those of a method that has any, whether with rows or alone."""
        self._bench = bench
        self._config = config
        self._scores = scores
        self._credits = credits
        self._supervise = method.build(bench.tables, config)
        self._objective: Objective = modified(method.load_objective())
        sorts = self._supervise.sorted_ids if isinstance(self._supervise, Sorts) else None
        self._sorted_ids = None if sorts is None else np.isin(np.arange(bench.world.student.num_ids), sorts)
        self._columns = _column_table(bench)
        self._found: dict[int, Supervision] = {}
        self._bank = RowBank(len(bench.paths.text_of))

    def supervision(self, path: int) -> Supervision:
        """What the shipped code says about one path; credits are those of the student before training."""
        if path not in self._found:
            self._found[path] = self._make(path)
        return self._found[path]

    def push(self, student: Student, paths: Int64[np.ndarray, " P"], counts: Counts) -> Push:
        """The gradient by automatic differentiation, in float64."""
        order = self._bank.order(paths)
        paths, counts = paths[order], np.asarray(counts)[order]
        batch, path_of = self._batch(student, paths, counts)
        scorer = _TableScorer(student, self._columns, self._sorted_ids)
        total = self._objective(score_batch(scorer, batch, torch.device("cpu")), self._config).total
        gradient = np.zeros(scorer.edges.shape)
        if total.requires_grad:
            torch.autograd.backward(total)
            assert scorer.table.grad is not None
            gradient = scorer.table.grad.numpy()[:, :-1] * scorer.is_edge
        if not np.isfinite(gradient).all():
            raise FloatingPointError("the gradient of a loss in the lab is not finite")
        total_E = np.bincount(scorer.edges.ravel(), gradient.ravel(), len(student.logits))

        def squares(of_tokens: Float64[np.ndarray, "N W"]) -> Float64[np.ndarray, " P"]:
            found = np.empty(len(paths))
            sums = np.einsum("nw,nw->n", of_tokens, of_tokens)
            found[order] = np.bincount(path_of, sums, len(paths)) / counts**2.0
            return found

        whole = squares(gradient)
        # Within canonical tokens, token by token: no path is twice in one state (`figures.within_canonical`).
        kept = scorer.is_edge & self._bench.paths.edge_is_canonical[scorer.edges]
        gradient *= kept
        gradient -= np.where(kept, student.canonical_share[scorer.edges], 0.0) * gradient.sum(
            axis=1, keepdims=True
        )
        return Push(total=total_E, squares=whole, canonical_squares=squares(gradient))

    def _batch(
        self, student: Student, paths: Int64[np.ndarray, " P"], counts: np.ndarray
    ) -> tuple[TrainBatch, Int64[np.ndarray, " N"]]:
        """Supervised tokens of some paths, and the path of each."""
        world_paths = self._bench.paths
        found = [self.supervision(path) for path in paths.tolist()]
        tokens, sizes = ragged(world_paths.bounds, paths)
        weight = np.concatenate([one.weight for one in found])
        kept = np.flatnonzero(weight > 0)
        path_of = np.repeat(np.arange(len(paths)), sizes)[kept]
        edges = world_paths.edge[tokens]
        logp = student.edge_logp[edges]
        credit = None if self._credits is None else self._credits.credit(paths, logp, counts)[kept]
        own = [np.flatnonzero(one.weight > 0) for one in found]
        edges, ids = edges[kept], world_paths.edge_token[edges[kept]]
        batch = TrainBatch(
            input_ids=np.zeros((1, 1), np.int64),
            row=world_paths.edge_state[edges],
            column=np.zeros(len(kept), np.int64),
            target=ids,
            is_stop=np.isin(ids, list(self._bench.world.student.stop_ids)),
            weight=(weight[kept] * counts[path_of]).astype(np.float32),
            credit=None if credit is None else credit.astype(np.float32),
            behaviour_logp=logp[kept].astype(np.float32),
            reference_logp=self._bench.first_logp[edges].astype(np.float32),
            rows=self._bank.joined(paths, [one.rows for one in found], own),
            units=joined_units([one.units for one in found], own),
            sorted_logp=joined_sorted([one.sorted_logp for one in found], own),
        )
        return batch, path_of

    def _make(self, path: int) -> Supervision:
        chunks, paths = self._bench.chunks, self._bench.paths
        assert self._supervise is not None
        own = slice(*paths.bounds[path : path + 2].tolist())
        rollout = Rollout(
            prompt=Prompt(key=f"path-{path}", messages=()),
            sample=0,
            context_ids=np.zeros(0, np.int64),
            completion=chunks.student_of(path),
            behaviour_logp=self._bench.first_logp[paths.edge[own]].astype(np.float32),
        )
        scores = self._scores.of_text(int(paths.text_of[path]))
        return self._supervise(rollout, scores, chunks.alignment_of(path))


class RowBank:
    """Rows of paths that have been seen, as those of one long response, so that the rows of a batch are one
    selection. Paths go into it in lots, as making it anew takes as long as it is large."""

    LOT = 128

    def __init__(self, num_paths: int) -> None:
        self._rows: Rows | None = None
        self._first = np.full(num_paths, -1)
        self._waiting: dict[int, Rows] = {}

    def order(self, paths: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        """The order in which `joined` wants some paths: those in the bank before the others."""
        return np.argsort(self._first[paths] < 0, kind="stable")

    def joined(
        self,
        paths: Int64[np.ndarray, " P"],
        rows: Sequence[Rows | None],
        kept: Sequence[Int64[np.ndarray, " _"]],
    ) -> Rows | None:
        """`joined_rows(rows, kept)` of some paths in this order, which are remembered."""
        if all(own is None for own in rows):
            return None
        size = int((self._first[paths] >= 0).sum())
        places = [first + own for first, own in zip(self._first[paths[:size]], kept[:size], strict=True)]
        inside = np.concatenate([np.zeros(0, np.int64), *places])
        found = joined_rows([self._rows, *rows[size:]], [inside, *kept[size:]])
        self._waiting.update(
            (path, own)
            for path, own in zip(paths[size:].tolist(), rows[size:], strict=True)
            if own is not None
        )
        if len(self._waiting) >= self.LOT:
            self._take_in()
        return found

    def _take_in(self) -> None:
        parts = [rows for rows in (self._rows, *self._waiting.values()) if rows is not None]
        sizes = [len(rows) for rows in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        self._first[list(self._waiting)] = starts[len(parts) - len(self._waiting) :]
        self._rows = joined_rows(parts, [np.arange(size) for size in sizes])
        self._waiting = {}


def _column_table(bench: Bench) -> Int64[np.ndarray, "Q V"]:
    """The place of a token among the edges of a state; -1 where the student does not have it there."""
    paths = bench.paths
    found = np.full((paths.num_states, bench.world.student.num_ids), -1)
    place = np.arange(len(paths.edge_state)) - paths.state_bounds[paths.edge_state]
    found[paths.edge_state, paths.edge_token] = place
    return found


class _TableScorer(torch.nn.Module):
    """A student of a world with the call of `models.TokenScorer`: `row` holds states in place of sequences.

    The table has a row for each token, of the log-probs of its state's edges and, last, of everything else:
    -inf.
    """

    def __init__(
        self, student: Student, columns: Int64[np.ndarray, "Q V"], sorted_ids: Bool[np.ndarray, " V"] | None
    ) -> None:
        super().__init__()
        self._student = student
        self._columns = columns
        self._sorted_ids = sorted_ids
        self.edges: Int64[np.ndarray, "N W"]
        self.is_edge: Bool[np.ndarray, "N W"]
        self.table: Float[Tensor, "N W1"]

    def forward(
        self,
        input_ids: Tensor,
        row: Tensor,
        column: Tensor,
        target: Tensor,
        is_stop: Tensor,
        candidates: Candidates | None = None,
        num_sorted: int = 0,
        position_ids: Tensor | None = None,
    ) -> TokenScores:
        """Scores of tokens from states; only what losses read is there. Nothing is packed, so positions say
        nothing."""
        state, ids = row.numpy(), target.numpy()
        self._look_up(state)
        total_N = self.table.logsumexp(-1)
        place = torch.from_numpy(self._columns[state, ids])
        logp = self.table.gather(-1, place[:, None]).squeeze(-1) - total_N
        nothing = torch.full_like(total_N.detach(), -torch.inf)
        empty = torch.zeros((len(ids), 0))
        scores = TokenScores(logp, empty.long(), empty, nothing)
        if candidates is not None:
            own = self._places(state, candidates)
            inside_C, rest_N = candidate_masses(self.table, own)
            scores = scores._replace(candidate_logp=inside_C, rest_logp=rest_N)
        if num_sorted:
            scores = scores._replace(sorted_logp=self._sorted(num_sorted) - total_N[:, None])
        return scores

    def _look_up(self, state: Int64[np.ndarray, " N"]) -> None:
        bounds = self._student.bench.paths.state_bounds
        sizes = np.diff(bounds)[state]
        width = int(sizes.max(initial=1))
        place = np.arange(width)
        self.is_edge = place < sizes[:, None]
        self.edges = np.where(self.is_edge, bounds[state][:, None] + place, 0)
        law = np.where(self.is_edge, self._student.edge_logp[self.edges], -np.inf)
        padded = np.concatenate([law, np.full((len(state), 1), -np.inf)], axis=1)
        self.table = torch.from_numpy(padded).requires_grad_()

    def _places(self, state: Int64[np.ndarray, " N"], candidates: Candidates) -> Candidates:
        """Candidates by column."""
        row_of = candidates.row if candidates.member_of is None else candidates.row[candidates.member_of]
        place = self._columns[state[row_of.numpy()], candidates.ids.numpy()]
        place = np.where(place < 0, self.edges.shape[1], place)
        weight = None if candidates.log_weight is None else candidates.log_weight.double()
        return candidates._replace(ids=torch.from_numpy(place), log_weight=weight)

    def _sorted(self, num_sorted: int) -> Float[Tensor, "N R"]:
        table = self.table
        if self._sorted_ids is not None:
            tokens = self._student.bench.paths.edge_token[self.edges]
            other = np.concatenate([~self._sorted_ids[tokens], np.ones((len(tokens), 1), bool)], axis=1)
            table = table.masked_fill(torch.from_numpy(other), -torch.inf)
        size = min(num_sorted, table.shape[1])
        return torch.nn.functional.pad(
            table.topk(size, dim=-1).values, (0, num_sorted - size), value=-torch.inf
        )
