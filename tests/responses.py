"""Random responses and random teachers' scores of them, over tiny tokenizers, for properties of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import tiny
from dragoman.text import Tokenization
from dragoman.types import DropReason, Event, HeldLogp, TeacherScores, TokenText

NAMES = ("byte-level", "small", "sentencepiece")
TEXTS = ("the answer is 42. ", "é🙂 ", "courts  and\n    return ", "Hello world", " tokens", "\t")

texts = st.lists(st.sampled_from(TEXTS), max_size=4).map(lambda parts: "".join(parts).encode())
pair_names = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))


def tiny_sides(folder: Path) -> dict[str, Tokenization]:
    """Two byte-level tokenizers and one that spells as SentencePiece does, by the names in `NAMES`."""
    return {
        "byte-level": Tokenization.from_pretrained(str(tiny.byte_level(folder / "b"))),
        "small": Tokenization.from_pretrained(str(tiny.byte_level(folder / "m", vocab_size=290))),
        "sentencepiece": Tokenization.from_pretrained(str(tiny.sentencepiece(folder / "s"))),
    }


def written(side: Tokenization, data: bytes, stopped: bool, random: np.random.Generator) -> TokenText:
    """Some tokens of these bytes, in half of the cases divided oddly at some place."""
    pieces = [data]
    if random.random() < 0.5 and len(data) > 1:
        cut = int(random.integers(1, len(data)))
        pieces = [data[:cut], data[cut:]]
    ids = [index for piece in pieces for index in side.encode(piece).ids.tolist()]
    return side.view([*ids, max(side.stop_ids)] if stopped else ids)


def scored(
    side: Tokenization, text: TokenText, topk: int | None, random: np.random.Generator, lossy: float = 0.0
) -> TeacherScores:
    """Random rows in which realised tokens are likely now and then; a share `lossy` of responses lacks a
    value."""
    size = len(text)
    logits = random.normal(scale=4.0, size=(size, side.num_ids))
    logits[np.arange(size), text.ids] += random.choice([0.0, 12.0], size=size)
    full = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    stop = np.log(np.exp(full[:, sorted(side.stop_ids)]).sum(axis=1))
    logp = np.where(text.event == Event.STOP, stop, full[np.arange(size), text.ids])
    missing = np.zeros(size, np.uint8)
    if size and random.random() < lossy:
        lost = int(random.integers(size))
        missing[lost], full[lost], logp[lost] = DropReason.NON_FINITE, np.nan, np.nan
    scores = TeacherScores(
        logp=logp.astype(np.float32), missing=missing, stop_logp=stop.astype(np.float32), tokens=text
    )
    if topk is None:
        return replace(scores, full_logp=HeldLogp(full.astype(np.float32)))
    ids = np.argsort(-full, axis=1)[:, :topk]
    best = np.take_along_axis(full, ids, axis=1).astype(np.float32)
    return replace(scores, topk_ids=ids.astype(np.int32), topk_logp=best)
