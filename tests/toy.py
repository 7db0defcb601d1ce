"""Tokenizers of a few letters and teacher rows written out by hand, for arithmetic that fits in a comment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.sampled import Build
from dragoman.text import PairTables, Tokenization
from dragoman.text.files import TokenizerFiles
from dragoman.types import HeldLogp, Prompt, Rollout, Rows, Supervision, TeacherScores, TokenText


def bpe(name: str, *merges: str, letters: str = "abcd", stops: Sequence[str] = ("<stop>",)) -> Tokenization:
    """A BPE: the stops, the letters, then a token for each merge, such as "ab c", the first merged first.
    A space is written "Ġ"."""
    pairs = [tuple(merge.split()) for merge in merges]
    tokens = [*stops, *letters, *(a + b for a, b in pairs)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(stop, special=True) for stop in stops])
    ids = [tokens.index(stop) for stop in stops]
    return Tokenization(TokenizerFiles(name=name, backend=backend, generation={"eos_token_id": ids}))


def ids_of(side: Tokenization, *words: str) -> TokenText:
    """A response of these very tokens."""
    return side.view([index_of(side, word) for word in words])


def index_of(side: Tokenization, word: str) -> int:
    found = side.token_id(word)
    assert found is not None, word
    return found


def scores_of(
    side: Tokenization, teacher: TokenText, rows: Sequence[Mapping[str, float]], topk: int | None = None
) -> TeacherScores:
    """Scores with whole rows, or with their `topk` most likely tokens alone; a stop has its set's mass."""
    full = np.full((len(teacher), side.num_ids), -np.inf)
    for row, mass in zip(full, rows, strict=True):
        for word, probability in mass.items():
            row[index_of(side, word)] = np.log(probability)
    logp = full[np.arange(len(teacher)), teacher.ids]
    stops = sorted(side.stop_ids)
    of_stop = np.isin(teacher.ids, stops)
    logp[of_stop] = np.log(np.exp(full[of_stop][:, stops]).sum(axis=1))
    known: dict[str, np.ndarray | HeldLogp] = {"full_logp": HeldLogp(full.astype(np.float32))}
    if topk is not None:
        ids = np.argsort(-full, axis=1, kind="stable")[:, :topk]
        best = np.take_along_axis(full, ids, axis=1)
        known = {"topk_ids": ids.astype(np.int32), "topk_logp": best.astype(np.float32)}
    return TeacherScores(
        logp=logp.astype(np.float32), missing=np.zeros(len(teacher), np.uint8), tokens=teacher, **known
    )


def rollout_of(completion: TokenText) -> Rollout:
    return Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([0]),
        completion=completion,
        behaviour_logp=np.full(len(completion), -1.0, np.float32),
    )


def supervise(
    build: Build, tables: PairTables, student: TokenText, scores: TeacherScores, **settings: object
) -> Supervision:
    """The supervision of one response."""
    assert scores.tokens is not None
    config = MethodConfig.model_validate({"name": "m", **settings})
    return build(tables, config)(rollout_of(student), scores, align(student, scores.tokens))


def row_of(rows: Rows, index: int, side: Tokenization) -> dict[str, float]:
    """A row of single candidates by their names; the residual as "rest", where it is more than rounding."""
    own = slice(int(rows.bounds[index]), int(rows.bounds[index + 1]))
    assert rows.member_bounds is None
    ids, mass = rows.ids[own].tolist(), np.exp(rows.logp[own].astype(np.float64)).tolist()
    row = {side.token_name(i): m for i, m in zip(ids, mass, strict=True)}
    return row | ({"rest": float(rows.residual[index])} if rows.residual[index] > 1e-6 else {})
