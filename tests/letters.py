"""Two tokenizers over four letters whose merges are few enough to reckon with, and scores written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dragoman.text import Tokenization
from dragoman.text.files import TokenizerFiles
from dragoman.text.pair import PairTables
from dragoman.types import HeldLogp, TeacherScores, TokenText


def bpe(name: str, *merges: str) -> Tokenization:
    """A BPE over the letters a to d: `<stop>`, the letters, then a token for each merge, such as "ab c"."""
    pairs = [tuple(merge.split()) for merge in merges]
    tokens = ["<stop>", *"abcd", *(a + b for a, b in pairs)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<stop>", special=True)])
    return Tokenization(TokenizerFiles(name=name, backend=backend, config={"eos_token": "<stop>"}))


STUDENT = bpe("student", "a b", "c d")
TEACHER = bpe("teacher", "a b", "c d", "ab cd", "ab c", "b c", "b cd")
TABLES = PairTables(STUDENT, TEACHER)
# In student tokens: abcd = |ab|cd|, abc = |ab|c|, bc = |b|c|, bcd = |b|cd|
FIRST = {"abcd": 0.4, "abc": 0.2, "ab": 0.1, "a": 0.05, "cd": 0.15, "bcd": 0.1}


def ids_of(side: Tokenization, *words: str) -> TokenText:
    found = [side.token_id(word) for word in words]
    assert None not in found
    return side.view([index for index in found if index is not None])


def scores_of(
    teacher: TokenText, rows: Sequence[Mapping[str, float]], topk: Sequence[str] | None = None
) -> TeacherScores:
    """Scores with whole rows, or with those of some tokens alone."""
    full = np.full((len(teacher), TEACHER.num_ids), -np.inf, np.float32)
    for row, mass in zip(full, rows, strict=True):
        for word, probability in mass.items():
            row[TEACHER.token_id(word)] = np.log(probability)
    logp = full[np.arange(len(teacher)), teacher.ids]
    missing = np.zeros(len(teacher), np.uint8)
    if topk is None:
        return TeacherScores(logp=logp, missing=missing, full_logp=HeldLogp(full), tokens=teacher)
    ids = np.array([TEACHER.token_id(word) for word in topk], np.int32)
    return TeacherScores(
        logp=logp,
        missing=missing,
        topk_ids=np.tile(ids, (len(teacher), 1)),
        topk_logp=full[:, ids],
        tokens=teacher,
    )
