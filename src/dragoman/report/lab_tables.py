"""What the lab found as tables of text, for the terminal and the HTML page alike."""

from __future__ import annotations

from dragoman.lab.result import MethodResult, WorldResult
from dragoman.report.audit_cells import BAD, GOOD, PLAIN, Cell, Table, numbers
from dragoman.report.formats import NOT_RECORDED, measured, percent

ODD = 0.02
"""Share of non-canonical text from which on it is marked."""


def lab_tables(result: WorldResult) -> list[Table]:
    """All tables of a world; those of rows only if a method has any."""
    tables = [headline_table(result), gradient_table(result)]
    return [*tables, row_table(result)] if any(method.rows for method in result.methods) else tables


def headline_table(result: WorldResult) -> Table:
    """Where training ends, best method first."""
    settings = result.settings
    ordered = sorted(result.methods, key=lambda method: method.curve[-1].text_kl)
    early = result.methods[0].early.update if result.methods else 0
    return Table(
        title=f"Text KL after {settings.updates} updates",
        columns=(
            "method",
            "level",
            "nats a text",
            "± (95 %)",
            f"after {early}",
            "non-canonical",
            "rate",
            "s a run",
        ),
        rows=tuple(_headline(method, best=method is ordered[0]) for method in ordered),
        note=f"At the start: {measured(result.facts.text_kl)} nats, "
        f"{percent(result.facts.noncanonical)} non-canonical. Means over {settings.seeds} seeds; "
        f"{settings.samples} texts an update. Level is what is needed of the teacher; rate is the learning "
        "rate, with * the least or largest tried.",
    )


def gradient_table(result: WorldResult) -> Table:
    """Expected gradients against the exact ones, before training."""
    return Table(
        title="Expected gradient against the exact one, before training",
        columns=(
            "method",
            "cosine J_token",
            "cosine J_text",
            "norm ratio",
            "bias",
            "RMSE",
            "variance",
            "odd push",
        ),
        rows=tuple(
            numbers(
                method.label,
                measured(method.gradient.token.cosine),
                measured(method.gradient.text.cosine),
                measured(method.gradient.token.norm_ratio),
                measured(method.gradient.token.bias),
                measured(method.gradient.token.rmse),
                measured(method.gradient.variance),
                measured(method.gradient.odd_push),
            )
            for method in result.methods
        ),
        note="Norm ratio, bias and RMSE are relative to the exact gradient of J_token, RMSE that of a whole "
        "batch; variance is that of one text's gradient, relative to the mean's squared norm. Odd push above "
        "0 rewards non-canonical tokens.",
    )


def row_table(result: WorldResult) -> Table:
    """Rows against q*."""
    found = [(method.label, method.rows) for method in result.methods if method.rows is not None]
    return Table(
        title="Rows against q*, before training",
        columns=("method", "total variation", "residual", "have a row", "labels", "labels that hold"),
        rows=tuple(
            (
                *numbers(
                    label,
                    measured(rows.total_variation),
                    measured(rows.residual),
                    percent(rows.row_rate),
                ),
                Cell(text=_shares(rows.labels)),
                Cell(text=_shares(rows.kept)),
            )
            for label, rows in found
        ),
        note="Means over the canonical prefixes that have a row, each weighted by the student's probability "
        "of reaching it; the residual counts as missing.",
    )


def facts_table(result: WorldResult) -> Table:
    """What the world is like."""
    facts = result.facts
    rows = (
        ("texts", f"{facts.num_texts:,}"),
        ("ways to write them", f"{facts.num_paths:,}"),
        ("states of the student", f"{facts.num_states:,}"),
        ("student's vocabulary", f"{facts.student_vocabulary:,}"),
        ("teacher's vocabulary", f"{facts.teacher_vocabulary:,}"),
        ("teacher's tokens that the student has", percent(facts.shared)),
        ("student tokens of a text of the teacher", measured(facts.student_tokens)),
        ("teacher tokens of one", measured(facts.teacher_tokens)),
        ("teacher's entropy, nats a text", measured(facts.entropy)),
        ("text KL before training, nats", measured(facts.text_kl)),
    )
    return Table(
        title="The world", columns=("", "value"), rows=tuple(numbers(name, value) for name, value in rows)
    )


def _headline(method: MethodResult, *, best: bool) -> tuple[Cell, ...]:
    last = method.curve[-1]
    half = None if last.text_kl_ci is None else last.text_kl_ci[1] - last.text_kl
    return (
        Cell(text=method.label),
        Cell(text=NOT_RECORDED if method.level is None else str(method.level), is_number=True),
        Cell(text=measured(last.text_kl), is_number=True, tone=GOOD if best else PLAIN),
        Cell(text=measured(half), is_number=True),
        Cell(text=measured(method.early.text_kl), is_number=True),
        Cell(
            text=percent(last.noncanonical), is_number=True, tone=BAD if last.noncanonical >= ODD else PLAIN
        ),
        Cell(text=f"{method.lr:g}" + ("*" if method.lr_at_border else ""), is_number=True),
        Cell(text=measured(method.seconds_a_run), is_number=True),
    )


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items()) or NOT_RECORDED
