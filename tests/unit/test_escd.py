"""Rows of `escd` by hand: roots as in `bpm`, and sets of what longer teacher tokens say next."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import toy
from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.objective import Scored, ScoredRows, row_divergence
from dragoman.observe import Record
from dragoman.supervise.rows import bpm, escd, gkd
from dragoman.text import PairTables, Tokenization
from dragoman.train.collate import collate, normaliser
from dragoman.types import DropReason, RowLabel, Rows

TEACHER = toy.bpe("teacher", "a b", "c d", "ab cd", "ab c", "b c", "b cd")
STUDENT = toy.bpe("student", "a b", "c d")
TABLES = PairTables(STUDENT, TEACHER)
# Without a student token of their bytes: abc and abcd, one group by abc, and bc and bcd, one by bc.
FIRST = {"abcd": 0.4, "abc": 0.2, "ab": 0.1, "a": 0.05, "cd": 0.15, "bcd": 0.1}
SECOND = {"c": 0.8, "bc": 0.1, "a": 0.1}


def sets_of(rows: Rows, index: int, side: Tokenization) -> dict[tuple[str, ...], float]:
    """A row as sets of names with their mass."""
    assert rows.log_weight is None
    bounds = np.arange(len(rows.ids) + 1) if rows.member_bounds is None else rows.member_bounds
    row: dict[tuple[str, ...], float] = {}
    for k in range(int(rows.bounds[index]), int(rows.bounds[index + 1])):
        ids = rows.ids[bounds[k] : bounds[k + 1]].tolist()
        name = tuple(side.token_name(i) for i in ids)
        row[name] = row.get(name, 0.0) + math.exp(rows.logp[k])
    return row


def test_a_root_behind_a_root_has_both_terms() -> None:
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "ab", "c"), [FIRST, SECOND])
    found = toy.supervise(escd.build, TABLES, toy.ids_of(STUDENT, "ab", "c"), scores)
    rows = found.rows
    assert rows is not None
    # the first token as in bpm
    expected = {("ab",): 0.7, ("a",): 0.05, ("cd",): 0.15, ("b",): 0.1}
    assert sets_of(rows, 0, STUDENT) == pytest.approx(expected, rel=1e-6)
    # Behind "ab" the group of abc, .4 + .2, goes on with "c": c or cd. Z = 1 + .6. The other group does not
    # start with "ab"; bc itself goes to b.
    expected = {("c",): 0.8, ("b",): 0.1, ("a",): 0.1, ("c", "cd"): 0.6}
    assert sets_of(rows, 1, STUDENT) == pytest.approx({k: v / 1.6 for k, v in expected.items()}, rel=1e-6)
    assert found.weight.tolist() == pytest.approx([1.0, 1.6])
    assert rows.residual.tolist() == [0.0, 0.0]
    assert rows.label.tolist() == [RowLabel.HEURISTIC] * 2


def test_a_token_counts_as_one_whatever_its_terms() -> None:
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "ab", "c"), [FIRST, SECOND])
    student = toy.ids_of(STUDENT, "ab", "c")
    found = toy.supervise(escd.build, TABLES, student, scores)
    record = Record(step=1, rollout=toy.rollout_of(student), supervision=found)
    # Z = 1 and 1.6 are factors of the two losses; the mean is over two tokens, not 2.6
    assert collate([record], "token").weight.tolist() == pytest.approx([1.0, 1.6])
    assert normaliser([record], "token") == 2.0
    assert collate([record], "sequence").weight.tolist() == pytest.approx([0.5, 0.8])
    assert normaliser([record], "sequence") == 1.0


def test_the_loss_is_the_sum_of_both_terms() -> None:
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "ab", "c"), [FIRST, SECOND], topk=2)
    found = toy.supervise(escd.build, TABLES, toy.ids_of(STUDENT, "ab", "c"), scores)
    rows = found.rows
    assert rows is not None and rows.member_bounds is not None
    # Known are abcd .4 and abc .2 of the first row, c .8 and a .1 of the second, whose residual is .1
    logits = torch.randn(STUDENT.num_ids, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)
    own = range(int(rows.bounds[1]), int(rows.bounds[2]))
    ids = [rows.ids[rows.member_bounds[k] : rows.member_bounds[k + 1]] for k in own]
    inside = torch.stack([logp[torch.from_numpy(i)].logsumexp(0) for i in ids])
    free = torch.ones(STUDENT.num_ids, dtype=torch.bool)
    free[np.concatenate(ids)] = False
    weight = torch.tensor([float(found.weight[1])], dtype=torch.float64)
    scored = Scored(
        logp=torch.zeros(1, dtype=torch.float64),
        weight=weight,
        rows=ScoredRows(
            row_of=torch.zeros(len(own), dtype=torch.long),
            teacher_logp=torch.from_numpy(rows.logp[own.start : own.stop]).double(),
            student_logp=inside,
            teacher_rest=torch.tensor([math.log(rows.residual[1])], dtype=torch.float64),
            student_rest=logp[free].logsumexp(0)[None],
            has_row=torch.ones(1, dtype=torch.bool),
        ),
    )
    (found_gradient,) = torch.autograd.grad(row_divergence(scored, MethodConfig()).total, logits)
    a, c, cd = (toy.index_of(STUDENT, word) for word in ("a", "c", "cd"))
    logp = logits.log_softmax(-1)
    loss = -(0.8 * logp[c] + 0.1 * logp[a] + 0.1 * logp[free].logsumexp(0))
    loss = loss - 0.6 * torch.logaddexp(logp[c], logp[cd])
    (expected,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found_gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_token_inside_has_the_second_term_alone() -> None:
    # |a|bc|d| meets |abcd|; here the groups are abc (with abcd), bcd and cd. Behind "a", .4 + .2 go on with
    # "bc"; behind |bc|, which is no root, nothing is said.
    student = toy.bpe("other", "b c", "a b")
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "abcd"), [FIRST])
    found = toy.supervise(
        escd.build, PairTables(student, TEACHER), toy.ids_of(student, "a", "bc", "d"), scores
    )
    assert found.rows is not None
    assert sets_of(found.rows, 1, student) == pytest.approx({("bc",): 1.0})
    assert found.weight.tolist() == pytest.approx([1.0, 0.6, 0.0])
    assert found.reason.tolist() == [DropReason.NONE, DropReason.NONE, DropReason.NO_ROW]
    assert found.rows.residual.tolist() == [0.0, 0.0, 0.0]


def test_nothing_is_said_behind_what_has_no_row() -> None:
    teacher = toy.ids_of(TEACHER, "ab", "c")
    scores = toy.scores_of(TEACHER, teacher, [FIRST, SECOND])
    bad = np.array([np.nan, scores.logp[1]], np.float32)
    missing = np.array([DropReason.NON_FINITE, DropReason.NONE], np.uint8)
    scores = type(scores)(logp=bad, missing=missing, full_logp=scores.full_logp, tokens=teacher)
    found = toy.supervise(escd.build, TABLES, toy.ids_of(STUDENT, "ab", "c"), scores)
    assert found.weight.tolist() == [0.0, 1.0]


def test_equal_tokenizers_have_no_second_term() -> None:
    text = toy.ids_of(TEACHER, "ab", "c")
    scores = toy.scores_of(TEACHER, text, [FIRST, SECOND])
    tables = PairTables(TEACHER, TEACHER)
    found = toy.supervise(escd.build, tables, text, scores)
    plain = toy.supervise(gkd.build, tables, text, scores)
    byte_prefix = toy.supervise(bpm.build, tables, text, scores)
    assert found.rows is not None and plain.rows is not None and byte_prefix.rows is not None
    for rows in (found.rows, byte_prefix.rows):
        for name in ("bounds", "ids", "logp", "residual", "label"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(plain.rows, name))
    assert found.weight.tolist() == [1.0, 1.0]


def test_only_forward_divergence() -> None:
    with pytest.raises(ConfigError, match=r"method\.divergence is 'reverse'"):
        escd.build(TABLES, MethodConfig.model_validate({"name": "escd", "divergence": "reverse"}))
