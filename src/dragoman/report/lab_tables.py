"""What the lab found as tables of text, for the terminal and the HTML page alike."""

from __future__ import annotations

from collections.abc import Sequence

from dragoman.lab.result import LabSettings, MethodResult, WorldResult
from dragoman.lab.row_figures import LEEWAY, RowFigures
from dragoman.lab.worlds import KINDS
from dragoman.report.cells import BAD, GOOD, PLAIN, Cell, Table, numbers
from dragoman.report.formats import NOT_RECORDED, measured, number, percent

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
            "95 % interval",
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
                _size(method.gradient.token.cosine),
                _size(method.gradient.text.cosine),
                _size(method.gradient.token.norm_ratio),
                _size(method.gradient.token.bias),
                _size(method.gradient.token.rmse),
                _size(method.gradient.variance),
                _size(method.gradient.odd_push),
            )
            for method in result.methods
        ),
        note="Norm ratio, bias and RMSE are relative to the exact gradient of J_token, RMSE that of a whole "
        "batch; variance is that of one text's gradient, relative to the mean's squared norm. Odd push above "
        "0 rewards non-canonical tokens.",
    )


def row_table(result: WorldResult) -> Table:
    """Rows against q*; those that are farther from it than the student is are marked."""
    found = [(method.label, method.rows) for method in result.methods if method.rows is not None]
    rate = found[0][1].common_rate if found else None
    return Table(
        title="Rows against q*, before training",
        columns=(
            "method",
            "total variation",
            "the student's",
            "at common places",
            "residual",
            "have a row",
            "labels",
            "labels that hold",
        ),
        rows=tuple(_rows(label, rows) for label, rows in found),
        note="Means over the canonical prefixes that have a row, each weighted by the student's probability "
        "of reaching it; the residual counts as missing. The student's is that of its own law at the same "
        f"places; common places ({percent(rate)}) are those at which all of these methods have a row.",
    )


def method_table(results: Sequence[WorldResult]) -> Table:
    """What the methods are, each once."""
    methods = {method.label: method for result in results for method in result.methods}
    return Table(
        title="The methods",
        columns=("method", "level", "signal", "what it does"),
        rows=tuple(
            (
                Cell(text=method.label),
                Cell(text=_level(method), is_number=True),
                Cell(text=method.signal),
                Cell(text=method.summary),
            )
            for method in methods.values()
        ),
        note="Level is what is needed of the teacher: 0 the probabilities of the tokens that are there, 1 "
        "its likeliest tokens too, 2 all of its logits.",
    )


def world_facts(result: WorldResult) -> list[tuple[str, str]]:
    """What tells a world from others of its family."""
    world, facts = result.world, result.facts
    size = KINDS[world.kind].size if world.size is None else world.size
    texts = f"{facts.num_texts:,} texts"
    return [
        ("World", f"{world.kind}, number {world.seed}"),
        ("Size", texts if size == facts.num_texts else f"{size:,}, making {texts}"),
        ("Teacher's merges", _merges(facts.teacher_merges, world.teacher_merges)),
        ("Student's merges", _merges(facts.student_merges, world.student_merges)),
        ("Text KL at the start", f"{measured(facts.text_kl)} nats"),
    ]


def settings_facts(settings: LabSettings) -> list[tuple[str, str]]:
    """How methods were compared."""
    rates = ", ".join(f"{rate:g}" for rate in settings.rates)
    tuned = len(settings.rates) > 1
    return [
        ("Updates", number(settings.updates)),
        ("Texts an update", number(settings.samples)),
        ("Seeds", number(settings.seeds) + (f", and {settings.tuning_seeds} to tune on" if tuned else "")),
        ("Learning rates", f"best of {rates}" if tuned else rates),
        ("Quick look", "yes" if settings.quick else "no"),
    ]


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
        ("J_token before training, nats", measured(facts.token_kl)),
        ("non-canonical before training", percent(facts.noncanonical)),
    )
    return Table(
        title="The world", columns=("fact", "value"), rows=tuple(numbers(name, value) for name, value in rows)
    )


def method_anchor(label: str) -> str:
    """The identifier of a method on a page."""
    return f"method-{''.join(label.split())}"


def _headline(method: MethodResult, *, best: bool) -> tuple[Cell, ...]:
    last = method.curve[-1]
    interval = NOT_RECORDED if last.text_kl_ci is None else " to ".join(map(measured, last.text_kl_ci))
    return (
        Cell(text=method.label, href=f"#{method_anchor(method.label)}"),
        Cell(text=_level(method), is_number=True),
        Cell(text=measured(last.text_kl), is_number=True, tone=GOOD if best else PLAIN),
        Cell(text=interval, is_number=True),
        Cell(text=measured(method.early.text_kl), is_number=True),
        Cell(
            text=percent(last.noncanonical), is_number=True, tone=BAD if last.noncanonical >= ODD else PLAIN
        ),
        Cell(text=f"{method.lr:g}" + ("*" if method.lr_at_border else ""), is_number=True),
        Cell(text=measured(method.seconds_a_run), is_number=True),
    )


def _level(method: MethodResult) -> str:
    return NOT_RECORDED if method.level is None else str(method.level)


def _rows(label: str, rows: RowFigures) -> tuple[Cell, ...]:
    leads_away = rows.total_variation > rows.student_total_variation
    return (
        Cell(text=label),
        Cell(text=_size(rows.total_variation), is_number=True, tone=BAD if leads_away else PLAIN),
        *(
            Cell(text=text, is_number=True)
            for text in (
                _size(rows.student_total_variation),
                _size(rows.common_total_variation),
                _size(rows.residual),
                percent(rows.row_rate),
            )
        ),
        Cell(text=_shares(rows.labels)),
        Cell(text=_shares(rows.kept)),
    )


def _size(value: float | None) -> str:
    """A figure relative to something; what only rounding leaves of it is 0."""
    return "0" if value is not None and abs(value) < LEEWAY else measured(value)


def _merges(found: int, asked: int) -> str:
    return f"{found:,}" if found == asked else f"{found:,} (of {asked:,}: its texts allow no more)"


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items()) or NOT_RECORDED
