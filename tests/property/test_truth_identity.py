"""What must not matter and what must: the numbers of tokens, a constant of a position's logits, the teacher's
mass of the token that the student wrote; and what every method is where both sides have one tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import lab_truth
from dragoman.lab import tokenizers
from dragoman.lab.bench import Bench, make_bench
from dragoman.lab.methods import parse_method, signal_of
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import Student
from dragoman.models import Span, TokenScorer, score_spans
from dragoman.text.files import TokenizerFiles
from dragoman.types import HeldLogp, RowLabel, Rows, Supervision, TeacherScores

CREDITED = (*lab_truth.CREDITS, "canon_span", "mixed")
BY_ROW = ("shared", "bpm", "retok", "escd", "canon", "xtoken", "gold", "gold_normalised", "xtoken_h", "simct")


def plain(name: str) -> str:
    return f"{name}[{lab_truth.PLAIN};max_chunk_tokens=null]" if name in CREDITED else name


# --- the numbers of tokens


def permuted(**files: Any) -> TokenizerFiles:
    """A tokenizer with its ids dealt out anew, the stop's among them."""
    backend = json.loads(files["backend"].to_str())
    vocabulary = backend["model"]["vocab"]
    new = np.random.default_rng(len(vocabulary)).permutation(len(vocabulary)).tolist()
    backend["model"]["vocab"] = {token: new[index] for token, index in vocabulary.items()}
    for token in backend["added_tokens"]:
        token["id"] = new[token["id"]]
    return TokenizerFiles(**{**files, "backend": Tokenizer.from_str(json.dumps(backend))})


@cache
def other_numbers(world: str) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "TokenizerFiles", permuted)
        return make_bench(lab_truth.WORLDS[world])


@pytest.mark.parametrize("world", ["fine", "markov", "same"])
@pytest.mark.parametrize("name", lab_truth.METHODS)
def test_the_numbers_of_tokens_do_not_matter(name: str, world: str) -> None:
    if not lab_truth.runs_on(world, name):
        return
    bench, other = lab_truth.bench_of(world), other_numbers(world)
    assert bench.world.texts == other.world.texts
    # Edges are found by the bytes of texts, so they come in the same order.
    assert (bench.paths.edge_state == other.paths.edge_state).all()
    assert (bench.paths.edge_token != other.paths.edge_token).any()
    one = lab_truth.gradient(bench, lab_truth.signal_on(world, name), bench.first_logits, name, cover=0.9)
    two = lab_truth.gradient(other, signal_of(other, parse_method(name)), other.first_logits, name, cover=0.9)
    # sums of float32 in another order; alm's gradients are of the order of .001
    np.testing.assert_allclose(two, one, atol=1e-5 * np.abs(one).max())


# --- a constant added to the logits of one position


class TableModel(torch.nn.Module):
    """A language model whose logits at each place are given."""

    base_model_prefix = ""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.from_numpy(logits.astype(np.float32)))
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, **inputs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[None])


def scored(world: str, path: int, shift: np.ndarray | float, topk: int | str) -> TeacherScores:
    """What the shipped scorer makes of a teacher's logits, `shift` added at each place of a text."""
    bench = lab_truth.bench_of(world)
    known = ScoreBook(bench, "all").of_text(int(bench.paths.text_of[path]))
    assert known.full_logp is not None and known.tokens is not None
    logits = (
        np.maximum(known.full_logp.rows(slice(None)), -60.0)
        + np.broadcast_to(shift, len(known.logp))[:, None]
    )
    # The model is asked for token n at place n, behind a token of context; the last token is not read.
    model = TableModel(logits)
    stops = bench.world.teacher.stop_ids
    scorer = TokenScorer(
        model,
        stops,
        logit_slice=64,
        topk=0 if topk == "all" else min(int(topk), logits.shape[1]),
        full=topk == "all",
    )
    ids = np.concatenate([[0], known.tokens.ids])
    span = Span(ids=ids, start=1, is_stop=np.isin(known.tokens.ids, list(stops)))
    (found,) = score_spans(scorer, [span], batch_tokens=1000)
    return replace(
        known,
        logp=found.logp,
        full_logp=found.full_logp,
        topk_ids=found.topk_ids.astype(np.int32) if found.topk_ids.size else None,
        topk_logp=found.topk_logp if found.topk_ids.size else None,
        stop_logp=found.stop_logp,
    )


def arrays(found: Supervision) -> dict[str, np.ndarray]:
    """All numbers of a supervision; masses in place of their logs."""
    named = {"credit": found.credit, "weight": found.weight}
    if found.rows is not None:
        named |= {"mass": dense_rows(found.rows), "residual": found.rows.residual}
    if found.units is not None:
        named["units"] = found.units.teacher_logp
    if found.sorted_logp is not None:
        named["ranks"] = np.exp(found.sorted_logp)
    return {name: values for name, values in named.items() if values is not None}


def dense_rows(rows: Rows) -> np.ndarray:
    """Mass by token and candidate; a candidate is named by its smallest member."""
    table = np.zeros((len(rows), int(rows.ids.max(initial=0)) + 400))
    members = np.arange(len(rows.logp) + 1) if rows.member_bounds is None else rows.member_bounds
    row_of = np.repeat(np.arange(len(rows)), rows.num_candidates)
    for k, row in enumerate(row_of.tolist()):
        table[row, int(rows.ids[members[k] : members[k + 1]].min())] += float(np.exp(rows.logp[k]))
    return table[:, :400]


@pytest.mark.parametrize("name", [name for name in lab_truth.METHODS if name != "sft"])
def test_a_constant_of_one_positions_teacher_logits_does_not_matter(name: str) -> None:
    world = "same" if name == "gkd" else "fine"
    paths, spec = lab_truth.bench_of(world).paths, plain(name)
    topk = parse_method(spec).topk
    for path in paths.canonical_path[:6].tolist():
        size = len(scored(world, path, 0.0, topk).logp)
        shift = np.random.default_rng(path).normal(scale=4.0, size=size)
        one = arrays(lab_truth.supervised(world, spec, path, scored(world, path, 0.0, topk)))
        two = arrays(lab_truth.supervised(world, spec, path, scored(world, path, shift, topk)))
        assert one.keys() == two.keys() and (len(one) > 1 or name == "uld")
        for key, values in one.items():
            np.testing.assert_allclose(two[key], values, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", [*BY_ROW, "uld"])
def test_a_constant_of_one_places_student_logits_does_not_matter(name: str) -> None:
    # Losses of distributions are given the logits as they are; of sampled tokens log-probs come with them.
    bench = lab_truth.bench_of("fine")
    random, signal = np.random.default_rng(4), lab_truth.signal_on("fine", name)
    logits = bench.paths.log_law(bench.first_logits)
    shift = random.normal(scale=4.0, size=bench.paths.num_states)[bench.paths.edge_state]
    picked = bench.paths.canonical_path
    one, two = (
        signal.push(Student(bench=bench, logits=raw, edge_logp=raw), picked, np.ones(len(picked))).total
        for raw in (logits, logits + shift)
    )
    assert np.abs(one).max() > 0.01
    np.testing.assert_allclose(two, one, atol=1e-6)


# --- the teacher's mass of the token that the student wrote


def with_law(scores: TeacherScores, place: int, law: np.ndarray) -> TeacherScores:
    """Scores with another law of the teacher at one place, as far as they hold any."""
    assert scores.tokens is not None
    logp = scores.logp.copy()
    logp[place] = law[scores.tokens.ids[place]]
    found = replace(scores, logp=logp)
    if scores.full_logp is not None:
        full = scores.full_logp.rows(slice(None)).copy()
        full[place] = law
        found = replace(found, full_logp=HeldLogp(full))
    if scores.topk_ids is not None and scores.topk_logp is not None:
        ids, best = scores.topk_ids.copy(), scores.topk_logp.copy()
        ids[place] = np.argsort(-law, kind="stable")[: ids.shape[1]]
        best[place] = law[ids[place]]
        found = replace(found, topk_ids=ids, topk_logp=best)
    return found


def native_places(world: str) -> list[tuple[int, int, int]]:
    """(path, student token, teacher token) where both sides write the same token of text at a place where the
    teacher might write another one."""
    bench, found = lab_truth.bench_of(world), []
    for path in bench.paths.canonical_path.tolist():
        alignment, text = bench.chunks.alignment_of(path), bench.chunks.student_of(path)
        logp = ScoreBook(bench, "all").of_text(int(bench.paths.text_of[path])).logp
        sizes = np.diff(alignment.student_bounds), np.diff(alignment.teacher_bounds)
        for c in np.flatnonzero((sizes[0] == 1) & (sizes[1] == 1)).tolist():
            here, there = int(alignment.student_bounds[c]), int(alignment.teacher_bounds[c])
            if not text.event[here] and text.token_bytes(here).strip() and 0.05 < np.exp(logp[there]) < 0.9:
                found.append((path, here, there))
    assert len(found) >= 4
    return found[:12]


def law_at(world: str, path: int, place: int) -> np.ndarray:
    bench = lab_truth.bench_of(world)
    full = ScoreBook(bench, "all").of_text(int(bench.paths.text_of[path])).full_logp
    assert full is not None
    return full.rows(slice(place, place + 1))[0].astype(np.float64)


def halved(law: np.ndarray, token: int) -> np.ndarray:
    """The law with half of a token's mass, all others grown in proportion."""
    mass = np.exp(law)
    half = mass[token] / 2
    mass *= (1 - half) / (1 - mass[token])
    mass[token] = half
    with np.errstate(divide="ignore"):
        return np.log(mass).astype(np.float32)


def mass_of(rows: Rows, index: int, token: int) -> float | None:
    """The mass of the candidate that a token is in; None without one."""
    members = np.arange(len(rows.logp) + 1) if rows.member_bounds is None else rows.member_bounds
    for k in range(*rows.bounds[index : index + 2].tolist()):
        if token in rows.ids[members[k] : members[k + 1]]:
            return float(np.exp(rows.logp[k]))
    return None


@pytest.mark.parametrize("name", [name for name in lab_truth.METHODS if name not in ("uld", "sft")])
def test_half_the_teachers_mass_of_a_token_is_felt(name: str) -> None:
    world, spec = "same" if name == "gkd" else "markov", plain(name)
    bench, method = lab_truth.bench_of(world), parse_method(spec)
    felt = 0
    for path, here, there in native_places(world):
        scores = lab_truth.scores_on(world, method, path)
        assert scores.tokens is not None
        law = halved(law_at(world, path, there), int(scores.tokens.ids[there]))
        with lab_truth.shared_accounts(0.0):
            one = lab_truth.supervised(world, spec, path, scores)
            two = lab_truth.supervised(world, spec, path, with_law(scores, there, law))
        if one.credit is not None and two.credit is not None:
            # log 2 less in the chunk's budget, and in every sum of budgets that it is in
            assert two.credit[here] - one.credit[here] == pytest.approx(-np.log(2), abs=1e-4)
            felt += 1
        if one.rows is not None and two.rows is not None:
            token = int(bench.chunks.student_of(path).ids[here])
            before, after = mass_of(one.rows, here, token), mass_of(two.rows, here, token)
            if before is not None and after is not None and before < 1 - 1e-6:
                # a candidate can hold other mass, which grows
                assert after < before
                felt += 1
        if one.units is not None and two.units is not None:
            u = int(one.units.unit_of[here])
            assert two.units.teacher_logp[u] - one.units.teacher_logp[u] == pytest.approx(
                -np.log(2), abs=1e-4
            )
            felt += 1
    assert felt >= 4


SEEN = {
    # Whether it matters which of two teacher tokens has which mass: of tokens that both vocabularies have, of
    # tokens that the student's has not. Ranks do not see it.
    "uld": (False, False),
    "gold": (True, False),
    "gold_normalised": (True, False),
    "xtoken_h": (True, False),
    # Other tokens than the common ones are not looked at; in `fine` no student token projects on them.
    "shared": (True, False),
    "xtoken": (True, False),
    "bpm": (True, True),
    "retok": (True, True),
    "escd": (True, True),
    "canon": (True, True),
    "canon_span": (True, True),
    "mixed": (True, True),
    "marginal": (True, True),
    "marginal_rtg": (True, True),
}


def exchanged(law: np.ndarray, one: int, other: int) -> np.ndarray:
    found = law.astype(np.float32)
    found[[one, other]] = found[[other, one]]
    return found


def pairs_to_exchange(world: str, common: bool) -> list[tuple[int, int, int, int]]:
    """(path, place, token, other token): teacher tokens of unlike mass at the start of a chunk, both common
    to the two vocabularies or both not."""
    bench, found = lab_truth.bench_of(world), []
    has_counterpart = bench.tables.student_of_teacher >= 0
    for path in bench.paths.canonical_path.tolist():
        for place in bench.chunks.alignment_of(path).teacher_bounds[:-1].tolist():
            mass = np.exp(law_at(world, path, place))
            likely = np.flatnonzero((mass > 0.02) & (has_counterpart == common))
            likely = likely[np.argsort(-mass[likely])]
            if len(likely) > 1 and mass[likely[0]] > 1.2 * mass[likely[-1]]:
                found.append((path, place, int(likely[0]), int(likely[-1])))
    assert len(found) >= 4
    return found[:12]


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("common", [True, False])
def test_which_token_has_which_mass_is_seen_by_all_methods_but_those_of_ranks(
    name: str, common: bool
) -> None:
    spec, method, seen = plain(name), parse_method(plain(name)), 0
    cases = pairs_to_exchange("fine", common)
    for path, place, one, other in cases:
        scores = lab_truth.scores_on("fine", method, path)
        law = exchanged(law_at("fine", path, place), one, other)
        with lab_truth.shared_accounts(0.0):
            before = arrays(lab_truth.supervised("fine", spec, path, scores))
            after = arrays(lab_truth.supervised("fine", spec, path, with_law(scores, place, law)))
        seen += any(not np.array_equal(before[key], after[key]) for key in before)
    if SEEN[name][0 if common else 1]:
        assert seen >= 2
    else:
        assert seen == 0


# --- one tokenizer on both sides


@pytest.mark.parametrize("name", CREDITED)
def test_credits_of_equal_tokenizers_are_differences_of_log_probs_bit_for_bit(name: str) -> None:
    bench, spec = lab_truth.bench_of("same"), plain(name)
    for path in bench.paths.canonical_path.tolist():
        scores = lab_truth.scores_on("same", parse_method(spec), path)
        found = lab_truth.supervised("same", spec, path, scores)
        assert found.credit is not None and found.credit.dtype == np.float32
        np.testing.assert_array_equal(found.credit, scores.logp - lab_truth.path_logp(bench, path))


@pytest.mark.parametrize(
    "spec",
    ["bpm[mask_whitespace=false]", "gkd", *(name for name in BY_ROW if name != "bpm"), "canon_span", "mixed"],
)
def test_rows_of_equal_tokenizers_are_the_teachers(spec: str) -> None:
    bench = lab_truth.bench_of("same")
    for path in bench.paths.canonical_path.tolist():
        rows = lab_truth.supervised("same", spec, path).rows
        assert rows is not None and rows.partial is None and (rows.label != RowLabel.NONE).all()
        weight = rows.log_weight
        assert weight is None or not weight.any()
        full = ScoreBook(bench, "all").of_text(int(bench.paths.text_of[path])).full_logp
        assert full is not None
        known, expected = full.rows(slice(None)), np.zeros((len(full), 400))
        expected[:, : known.shape[1]] = np.exp(known)
        np.testing.assert_allclose(dense_rows(rows), expected, atol=1e-6)
        np.testing.assert_allclose(rows.residual, 0.0, atol=1e-6)


def test_units_of_equal_tokenizers_are_tokens() -> None:
    bench = lab_truth.bench_of("same")
    for path in bench.paths.canonical_path.tolist():
        scores = lab_truth.scores_on("same", parse_method("alm"), path)
        for spec in ("alm", "simct"):
            units = lab_truth.supervised("same", spec, path).units
            assert units is not None and (units.num_teacher == 1).all()
            assert units.unit_of.tolist() == list(range(len(scores.logp)))
            np.testing.assert_array_equal(units.teacher_logp, scores.logp)
