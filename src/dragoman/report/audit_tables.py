"""The tables of an audit: the terminal and the HTML page show the same."""

from __future__ import annotations

from collections.abc import Iterator

from dragoman.audit.facts import Figures, MappingAudit, SideFacts, TemplateRow
from dragoman.audit.pair_facts import PairAudit
from dragoman.audit.result import Audit
from dragoman.report.audit_pair_tables import pair_tables
from dragoman.report.cells import BAD, GOOD, PLAIN, Cell, Table, numbers, texts
from dragoman.report.formats import measured, number, percent

SIDES = ("property", "student", "teacher")


def audit_tables(audit: Audit) -> list[Table]:
    """All tables that have something to show, in order."""
    mapping, pair = audit.mapping, audit.pair
    tables = [_sides(mapping), _vocabularies(mapping, pair), _texts(mapping), _kinds(mapping, pair)]
    tables += [_events(mapping), _templates(mapping), _context(mapping)]
    if pair is not None:
        tables += pair_tables(pair)
    return tables


def _sides(mapping: MappingAudit) -> Table:
    sides = (mapping.student, mapping.teacher)

    def row(name: str, *values: str) -> tuple[Cell, ...]:
        return texts(name, *values)

    losses = [
        Cell(
            text=", ".join(side.losses) or f"none of {side.num_probes} probes",
            tone=BAD if side.losses else GOOD,
        )
        for side in sides
    ]
    return Table(
        title="Tokenizers and templates",
        columns=SIDES,
        rows=(
            row("algorithm", *(side.algorithm for side in sides)),
            row("spelling of bytes", *(_spelling(side) for side in sides)),
            row("ids (control tokens)", *(f"{side.num_ids:,} ({side.num_events:,})" for side in sides)),
            (Cell(text="losses"), *losses),
            row("space before the first word", *("yes" if side.dummy_prefix else "no" for side in sides)),
            row("template", *(side.template for side in sides)),
            row("thinking", *(_thinking(side) for side in sides)),
        ),
        note="Families are not looked up: all of this was found by probing.",
    )


def _spelling(side: SideFacts) -> str:
    return side.spelling + (" with byte fallback" if side.byte_fallback else "")


def _thinking(side: SideFacts) -> str:
    if not side.thinks:
        return "its template has none"
    return "may think before it answers" if side.may_think_first else "has a form, answers without"


def _vocabularies(mapping: MappingAudit, pair: PairAudit | None) -> Table:
    overlap = mapping.overlap
    shared = number(overlap.num_shared)
    rows = [
        numbers("tokens with equal bytes", shared, shared),
        numbers(
            "share of the text tokens", percent(overlap.share_of_student), percent(overlap.share_of_teacher)
        ),
    ]
    note = "The two sides share their tokenizer: every id means the same." if overlap.same_ids else ""
    if pair is not None:
        masses = (pair.student_mass, pair.teacher_mass)
        rows.append(
            numbers(
                "probability mass on what the other has as one token",
                *(f"{percent(m.shared)} to {percent(min(m.shared + m.tail, 1.0))}" for m in masses),
            )
        )
        note += (
            f" Mass: mean over {masses[0].num_positions} and {masses[1].num_positions} sampled positions; "
            f"between the bounds lies what is beyond the {masses[0].k} likeliest tokens."
        )
    return Table(title="Vocabulary overlap", columns=SIDES, rows=tuple(rows), note=note.strip())


def _texts(mapping: MappingAudit) -> Table:
    found = [*mapping.texts, mapping.total, *([mapping.own] if mapping.own is not None else [])]
    left_out = [f"{one.left_out} of {one.name}" for one in found[len(mapping.texts) :] if one.left_out]
    note = f" Left out, as they spell a stop token: {', '.join(left_out)}." if left_out else ""
    return Table(
        title="Mapping of texts",
        columns=("text", "bytes", "student", "teacher", "inflation", "coverage", "1:1", "normalised"),
        rows=tuple(_figures(figures) for figures in found),
        note="Inflation: teacher tokens for each student token. Coverage: student tokens whose chunk "
        "says the same on both sides." + note,
    )


def _figures(figures: Figures) -> tuple[Cell, ...]:
    size = max(figures.student_tokens, 1)
    return (
        *numbers(figures.name, number(figures.num_bytes)),
        Cell(text=number(figures.student_tokens), is_number=True),
        Cell(text=number(figures.teacher_tokens), is_number=True),
        Cell(text=measured(figures.inflation), is_number=True),
        Cell(text=percent(figures.coverage), is_number=True, tone=BAD if figures.coverage < 1 else PLAIN),
        Cell(text=percent(figures.single / size), is_number=True),
        Cell(text=percent(figures.normalised / size), is_number=True),
    )


def _kinds(mapping: MappingAudit, pair: PairAudit | None) -> Table:
    found = [mapping.judged, *([pair.sampled.figures] if pair is not None else [])]
    labels = list(dict.fromkeys(row.kind for figures in found for row in figures.kinds))
    rows = []
    for label in labels:
        cells: list[str] = []
        for figures in found:
            count = next((row for row in figures.kinds if row.kind == label), None)
            tokens = 0 if count is None else count.student_tokens
            cells += [
                number(0 if count is None else count.num_chunks),
                percent(tokens / max(figures.student_tokens, 1)),
            ]
        rows.append(numbers(label, *cells))
    headings = [name for figures in found for name in (f"{figures.name}: chunks", "student tokens")]
    reasons = [
        f"{figures.name}: " + ", ".join(f"{reason} {count}" for reason, count in figures.reasons.items())
        for figures in found
        if figures.reasons
    ]
    note = f"No signal, in student tokens: {'; '.join(reasons)}." if reasons else ""
    return Table(title="Chunks by kind", columns=("kind", *headings), rows=tuple(rows), note=note)


def _events(mapping: MappingAudit) -> Table:
    return Table(
        title="Events",
        columns=("event", "student", "teacher", "mapped as"),
        rows=tuple(texts(row.name, row.student, row.teacher, row.mapped) for row in mapping.events),
    )


def _templates(mapping: MappingAudit) -> Table:
    def status(value: str) -> Cell:
        return Cell(text=value, tone=GOOD if value == "ok" else BAD)

    return Table(
        title="Templates by probe",
        columns=("probe", "student", "teacher"),
        rows=tuple(
            (Cell(text=row.name), status(row.student_status), status(row.teacher_status))
            for row in mapping.templates
        ),
    )


def _context(mapping: MappingAudit) -> Table:
    context = mapping.context

    def limit(value: int | None, need: int) -> Cell:
        too_short = value is not None and need > value
        return Cell(text=number(value), is_number=True, tone=BAD if too_short else PLAIN)

    return Table(
        title="Context, in tokens",
        columns=SIDES,
        rows=(
            numbers("longest context", number(context.student_context), number(context.teacher_context)),
            numbers("longest response", number(context.max_new_tokens), number(context.teacher_response)),
            numbers("needed", number(context.student_need), number(context.teacher_need)),
            (
                Cell(text="model's limit"),
                limit(context.student_limit, context.student_need),
                limit(context.teacher_limit, context.teacher_need),
            ),
        ),
        note=f"Over {context.num_prompts} prompts; the teacher's response by the inflation found.",
    )


def differing(audit: Audit, *, between_sides: bool = False) -> Iterator[TemplateRow]:
    """The conversation, and every probe that a side does not render as it was given; `between_sides` leaves
    out those that both treat alike."""
    for place, row in enumerate(audit.mapping.templates):
        alike = row.student_status == row.teacher_status
        as_given = alike and row.student_status == "ok"
        if place == 0 or not (as_given or (between_sides and alike)):
            yield row
