"""How near rows of teacher mass are to `q*`, and whether they keep what their labels promise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.lab.bench import Bench
from dragoman.lab.dense import ObjectiveSignal
from dragoman.types import RowLabel, Rows

LEEWAY = 1e-6
"""How far a mass may be from what its label says: rows are float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Every prefix that was looked at: its weight, and the total variation of its row, NaN without one."""

    weight: Float64[np.ndarray, " n"]
    total_variation: Float64[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class RowFigures:
    """Means over the canonical prefixes of paths, each with the probability that the student takes it.

    `total_variation` is half the sum of |row(u) - q*(u)| over student tokens u, the residual counted as a
    token without mass in `q*`; over prefixes that have a row. A candidate that is a set of tokens has its
    mass where the student has it among them. A partial row says only how the student's mass of its
    candidates is to be divided, so it is taken as just that, the student's law everywhere else.
    `student_total_variation` is that of the student's own law at the same prefixes: rows that are not nearer
    lead away. `common_total_variation` is over the prefixes, `common_rate` of all, at which all methods
    measured together that have any rows have one (`with_common`).

    `residual` is the mean residual, `row_rate` the share of prefixes with a row. `labels` are shares of rows;
    `kept` says for labels that promise anything which share of their rows keeps it: `exact` if every
    candidate has the mass of `q*`, `lower` if none has more.
    """

    total_variation: float
    student_total_variation: float
    residual: float
    row_rate: float
    labels: dict[str, float]
    kept: dict[str, float]
    places: Places = field(repr=False)
    common_total_variation: float | None = None
    common_rate: float | None = None


def with_common(found: Sequence[RowFigures | None]) -> list[RowFigures | None]:
    """The figures of several methods on the same paths, with their total variation where all that have any
    rows have one: methods that speak at easy places alone compare with the others only there."""
    rows = [one for one in found if one is not None]
    if not rows:
        return list(found)
    weight = rows[0].places.weight
    shared = np.all([~np.isnan(one.places.total_variation) for one in rows], axis=0)
    rate = float(weight[shared].sum() / weight.sum())

    def common(one: RowFigures) -> RowFigures:
        mean = None
        if shared.any():
            mean = float(np.average(one.places.total_variation[shared], weights=weight[shared]))
        return replace(one, common_total_variation=mean, common_rate=rate)

    return [None if one is None else common(one) for one in found]


def row_figures(
    bench: Bench,
    signal: ObjectiveSignal,
    edge_logp: Float64[np.ndarray, " E"],
    picked: Int64[np.ndarray, " P"],
    prob: Float64[np.ndarray, " P"],
) -> RowFigures | None:
    """Measure the rows on some paths; None for a method without rows."""
    sums: dict[str, float] = defaultdict(float)
    weights: list[float] = []
    distances: list[float] = []
    labels: dict[int, float] = defaultdict(float)
    kept: dict[int, float] = defaultdict(float)
    laws = _Laws(bench, edge_logp)
    has_rows = False
    for path, weight in zip(picked.tolist(), prob.tolist(), strict=True):
        rows = signal.supervision(path).rows
        edges = bench.paths.edge[bench.paths.bounds[path] : bench.paths.bounds[path + 1]]
        states = bench.paths.edge_state[edges]
        for token in np.flatnonzero(bench.paths.state_is_canonical[states]).tolist():
            weights.append(weight)
            distances.append(np.nan)
            if rows is None or rows.label[token] == RowLabel.NONE:
                continue
            has_rows = True
            label = int(rows.label[token])
            target, student = laws.of(int(states[token]))
            distance, keeps = measure_row(rows, token, target, student)
            sums["rows"] += weight
            distances[-1] = distance
            sums["distance"] += weight * distance
            sums["student"] += weight * 0.5 * float(np.abs(student - target).sum())
            sums["residual"] += weight * float(rows.residual[token])
            labels[label] += weight
            kept[label] += weight * keeps
    if not has_rows:
        return None
    return RowFigures(
        total_variation=sums["distance"] / sums["rows"],
        student_total_variation=sums["student"] / sums["rows"],
        residual=sums["residual"] / sums["rows"],
        row_rate=sums["rows"] / sum(weights),
        labels={RowLabel(code).label: part / sums["rows"] for code, part in sorted(labels.items())},
        kept={
            RowLabel(code).label: kept[code] / part
            for code, part in sorted(labels.items())
            if code != RowLabel.HEURISTIC
        },
        places=Places(weight=np.array(weights), total_variation=np.array(distances)),
    )


class _Laws:
    """`q*` and the student's law of each state by token id."""

    def __init__(self, bench: Bench, edge_logp: Float64[np.ndarray, " E"]) -> None:
        self._bench = bench
        self._prob = np.exp(edge_logp)
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, state: int) -> tuple[Float64[np.ndarray, " V"], Float64[np.ndarray, " V"]]:
        """(`q*`, student) at a state."""
        if state not in self._found:
            paths = self._bench.paths
            own = slice(*paths.state_bounds[state : state + 2].tolist())
            target, student = np.zeros((2, self._bench.world.student.num_ids))
            target[paths.edge_token[own]] = paths.target[own]
            student[paths.edge_token[own]] = self._prob[own]
            self._found[state] = target, student
        return self._found[state]


def measure_row(
    rows: Rows, token: int, target: Float64[np.ndarray, " V"], student: Float64[np.ndarray, " V"]
) -> tuple[float, bool]:
    """Total variation of one row to `q*` (`target`), and whether it is what its label says."""
    first, last = rows.bounds[token : token + 2].tolist()
    mass = np.exp(rows.logp[first:last].astype(np.float64))
    if rows.member_bounds is None:
        ids, of, weight = rows.ids[first:last], np.arange(last - first), np.ones(last - first)
    else:
        bounds = rows.member_bounds[first : last + 1]
        members = slice(int(bounds[0]), int(bounds[-1]))
        ids, of = rows.ids[members], np.repeat(np.arange(last - first), np.diff(bounds))
        weight = np.ones(len(ids))
        if rows.log_weight is not None:
            weight = np.exp(rows.log_weight[members].astype(np.float64))
    share = student[ids] * weight
    sums = np.bincount(of, share, len(mass))
    # Where the student has nothing in a set, there is no telling, and all members are alike.
    share = np.where(sums[of] > 0, share, 1.0)
    within = share / np.bincount(of, share, len(mass))[of]
    residual = float(rows.residual[token])
    if rows.partial is not None and rows.partial[token]:
        row = student.copy()
        row[ids] = 0.0
        mass, residual = mass * (sums.sum() / mass.sum()), 0.0
        row += np.bincount(ids, mass[of] * within, len(target))
    else:
        row = np.bincount(ids, mass[of] * within, len(target))
    distance = 0.5 * (float(np.abs(row - target).sum()) + residual)
    exact = np.bincount(of, target[ids] * weight, len(mass))
    if rows.label[token] == RowLabel.EXACT:
        return distance, bool((np.abs(mass - exact) <= LEEWAY).all())
    if rows.label[token] == RowLabel.LOWER:
        return distance, bool((mass <= exact + LEEWAY).all())
    return distance, True
