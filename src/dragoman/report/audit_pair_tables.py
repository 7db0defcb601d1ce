"""The tables of an audit that need the weights."""

from __future__ import annotations

import math

from dragoman.audit.pair_facts import PairAudit
from dragoman.report.cells import BAD, GOOD, PLAIN, Cell, Table, numbers
from dragoman.report.formats import NOT_RECORDED, duration, flops, interval, measured, memory, number, percent


def pair_tables(pair: PairAudit) -> list[Table]:
    """In order."""
    return [_samples(pair), _methods(pair), _self_test(pair), _step(pair), _memory(pair)]


def _samples(pair: PairAudit) -> Table:
    sampled = pair.sampled
    figures = sampled.figures

    def row(name: str, value: str, note: str = "") -> tuple[Cell, ...]:
        return (*numbers(name, value), Cell(text=note))

    return Table(
        title="The student's own samples",
        columns=("measure", "value", "note"),
        rows=(
            row("responses", number(figures.num_texts), f"{figures.student_tokens:,} tokens"),
            row("coverage", percent(sampled.coverage), _interval(sampled.coverage_interval, as_percent=True)),
            row("inflation", measured(sampled.inflation), _interval(sampled.inflation_interval)),
            row(
                "non-canonical tokens",
                percent(sampled.noncanonical_rate),
                _interval(sampled.noncanonical_interval, as_percent=True),
            ),
            row("ended by a stop", percent(sampled.stop_rate), _stops(pair)),
            row("reverse KL, nats a byte", measured(sampled.kl_per_byte), _interval(sampled.kl_interval)),
            row("teacher's bits a byte", measured(sampled.teacher_bits_per_byte)),
            row("entropy, nats a token", measured(sampled.entropy)),
        ),
        note="Sampled and scored as in training, so these are the figures a run starts with. "
        "Brackets are 95 % intervals over the prompts.",
    )


def _stops(pair: PairAudit) -> str:
    sampled = pair.sampled
    if sampled.student_stop is None or sampled.teacher_stop is None:
        return ""
    return (
        f"a stop there has probability {sampled.student_stop:.2g} by the student, "
        f"{sampled.teacher_stop:.2g} by the teacher"
    )


def _interval(bounds: tuple[float, float], *, as_percent: bool = False) -> str:
    low, high = bounds
    if math.isnan(low):
        return ""
    return f"[{percent(low)}, {percent(high)}]" if as_percent else interval([low, high])


def _methods(pair: PairAudit) -> Table:
    return Table(
        title="Methods",
        columns=("method", "needs of the teacher", "offered", "would train on", "dropped"),
        rows=tuple(
            (
                Cell(text=row.name + (" (configured)" if row.configured else "")),
                Cell(text=row.needs),
                Cell(text="yes" if row.offered else f"no: {row.remedy}", tone=GOOD if row.offered else BAD),
                Cell(
                    text="other responses" if row.supervised is None else percent(row.supervised),
                    is_number=True,
                ),
                Cell(text=", ".join(f"{name} {count}" for name, count in row.dropped.items())),
            )
            for row in pair.methods
        ),
    )


def _self_test(pair: PairAudit) -> Table:
    words = {True: ("passed", GOOD), False: ("failed", BAD), None: (NOT_RECORDED, PLAIN)}
    return Table(
        title="Self-test of the teacher",
        columns=("check", "result", "found"),
        rows=tuple(
            (
                Cell(text=row.name),
                Cell(text=words[row.passed][0], tone=words[row.passed][1]),
                Cell(text=row.detail),
            )
            for row in pair.self_test
        ),
    )


def _step(pair: PairAudit) -> Table:
    cost = pair.cost
    total = sum(cost.flops.values())
    rows = [
        numbers(
            stage, flops(cost.flops[stage]), duration(cost.seconds[stage]), flops(cost.speeds[stage]) + "/s"
        )
        for stage in cost.flops
    ]
    rows.append(numbers("in all", flops(total), duration(cost.total_seconds), ""))
    return Table(
        title="A training step, by estimate",
        columns=("stage", "operations", "time here", "speed measured"),
        rows=tuple(rows),
        note=f"{cost.rollouts} responses of full length ({cost.student_length} student and "
        f"{cost.teacher_length} teacher tokens with their context): operations over the speed measured in "
        "this audit, without the optimiser's own pass over the weights.",
    )


def _memory(pair: PairAudit) -> Table:
    cost = pair.cost
    rows = [numbers(name, memory(size)) for name, size in cost.memory_bytes.items()]
    too_much = cost.total_memory > cost.available_bytes
    rows.append(
        (
            Cell(text="in all"),
            Cell(text=memory(cost.total_memory), is_number=True, tone=BAD if too_much else PLAIN),
        )
    )
    rows.append(numbers("this machine", memory(cost.available_bytes)))
    return Table(title="Memory, by estimate", columns=("part", "size"), rows=tuple(rows))
