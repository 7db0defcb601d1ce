"""The benchmark's own judge, against cases worked out by hand."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from cases import segment
from judge import judge
from normalise import Normaliser, TruthError
from show import percent
from truth import Sources
from units import given_units
from wordpiece import bert_pieces


def truth(*spans: tuple[int, int], foreign: tuple[int, ...] = ()) -> Sources:
    start, stop = np.array(spans, np.int64).reshape(-1, 2).T
    return Sources(start=start, stop=stop, foreign=np.isin(np.arange(len(spans)), foreign))


# Student |ab|c|d|, teacher |a|bc|d|: borders at bytes 2, 3 and at 1, 3. Only 3 is common.
STUDENT = np.array([0, 2, 3, 4])
TEACHER = truth((0, 1), (1, 3), (3, 4))


@pytest.mark.parametrize(
    ("chunks", "counts"),
    [
        ([(0, 2, 0, 2), (2, 3, 2, 3)], (3, 0, 0, 0)),
        ([(0, 3, 0, 3)], (0, 3, 0, 0)),  # byte 3 is common, so this could be divided
        ([(0, 1, 0, 1), (2, 3, 2, 3)], (1, 0, 1, 1)),  # ab against a
        ([(0, 2, 0, 2)], (2, 0, 0, 1)),
        ([], (0, 0, 0, 3)),
        ([(0, 3, 0, 0)], (0, 0, 0, 3)),  # nothing on the teacher's side
    ],
)
def test_chunks_of_a_lossless_pair(chunks, counts):
    assert judge(STUDENT, TEACHER, chunks).counts == counts


def test_equal_length_elsewhere_is_wrong():
    # Both sides hold one byte, but not the same one.
    assert judge(np.array([0, 1, 2]), truth((0, 1), (1, 2)), [(0, 1, 1, 2)]).counts == (0, 0, 1, 1)


def test_the_end_of_a_chunk_is_judged_as_well_as_its_beginning():
    verdict = judge(np.array([0, 1, 2]), truth((0, 1), (1, 2)), [(0, 1, 0, 2)])
    assert verdict.counts == (0, 0, 1, 1)
    assert verdict.wrong_chunk == (0, 1, 0, 2)


def test_two_tokens_of_one_source_cannot_be_parted():
    # "ﬁ" (3 bytes) was made f and i.
    both = truth((0, 3), (0, 3))
    assert judge(np.array([0, 3]), both, [(0, 1, 0, 2)]).counts == (1, 0, 0, 0)
    assert judge(np.array([0, 3]), both, [(0, 1, 0, 1)]).counts == (0, 0, 1, 0)
    assert judge(np.array([0, 3]), both, [(0, 1, 1, 2)]).counts == (0, 0, 1, 0)


def test_dropped_bytes_belong_to_either_neighbour_or_to_none():
    # Bytes 2 and 3 were dropped; student |ab|--|cd|, teacher |ab|cd|.
    student, teacher = np.array([0, 2, 4, 6]), truth((0, 2), (4, 6))
    assert judge(student, teacher, [(0, 1, 0, 1), (1, 3, 1, 2)]).counts == (3, 0, 0, 0)
    assert judge(student, teacher, [(0, 2, 0, 1), (2, 3, 1, 2)]).counts == (3, 0, 0, 0)
    assert judge(student, teacher, [(0, 1, 0, 1), (2, 3, 1, 2)]).counts == (2, 0, 0, 1)


def test_a_foreign_token_makes_its_chunk_wrong():
    assert judge(STUDENT, truth((0, 3), (3, 4), foreign=(0,)), [(0, 2, 0, 1), (2, 3, 1, 2)]).counts == (
        1,
        0,
        2,
        0,
    )


@pytest.mark.parametrize(
    "chunks", [[(0, 2, 0, 2), (1, 3, 2, 3)], [(2, 3, 2, 3), (0, 2, 0, 2)], [(0, 4, 0, 3)]]
)
def test_impossible_chunks_are_refused(chunks):
    with pytest.raises(ValueError, match="overlap"):
        judge(STUDENT, TEACHER, chunks)


def test_against_a_slow_judge():
    """Random borders and chunks; the slow judge compares byte ranges and looks for every inner border."""
    rng = random.Random(0)
    seen = np.zeros(4, int)
    for _ in range(500):
        size = rng.randrange(1, 12)
        sides = [[0, *sorted(rng.sample(range(1, size), rng.randrange(size))), size] for _ in range(2)]
        ours, theirs = sides
        cuts = sorted(rng.choices(sorted(set(ours) & set(theirs)), k=4))
        at_s = [ours.index(cut) for cut in cuts]
        at_t = sorted(min(theirs.index(cut) + (rng.random() < 0.1), len(theirs) - 1) for cut in cuts)
        chunks = list(zip(at_s[:-1], at_s[1:], at_t[:-1], at_t[1:], strict=True))
        expected = [0, 0, 0, len(ours) - 1]
        for s0, s1, t0, t1 in chunks:
            if s0 == s1 or t0 == t1:
                continue
            common = set(ours[s0 + 1 : s1]) & set(theirs[t0 + 1 : t1])
            same = (ours[s0], ours[s1]) == (theirs[t0], theirs[t1])
            verdict = 2 if not same else 1 if common else 0
            expected[verdict] += s1 - s0
            expected[3] -= s1 - s0
        counts = judge(np.array(ours), truth(*pairwise(theirs)), chunks).counts
        assert counts == tuple(expected)
        seen += counts
    assert (seen > 20).all()  # every verdict was tried


@pytest.mark.parametrize(
    ("form", "text", "made"),
    [
        ("NFC", "e\u0301x", [("é", 0, 2), ("x", 2, 3)]),
        # The dot below sorts before the dot above, and q takes neither.
        ("NFC", "q\u0307\u0323", [("q", 0, 1), ("\u0323", 2, 3), ("\u0307", 1, 2)]),
        # The double acute reaches u across the overlay, which has another class.
        ("NFC", "u\u0336\u030b", [("ű", 0, 3), ("\u0336", 1, 2)]),
        # A second acute is blocked by nothing but finds no composite.
        ("NFC", "e\u0301\u0301", [("é", 0, 2), ("\u0301", 2, 3)]),
        ("NFC", "\u1100\u1161\u11a8", [("각", 0, 3)]),
        ("NFKC", "ﬁx²", [("f", 0, 1), ("i", 0, 1), ("x", 1, 2), ("2", 2, 3)]),
        ("NFC", "ﬁ", [("ﬁ", 0, 1)]),
    ],
)
def test_normalisation_remembers_sources(form, text, made):
    assert Normaliser(form=form).trace(text) == made


def test_replacements_before_and_after():
    normaliser = Normaliser(
        form="NFKC", before={"～": "\ufdd0"}, after={"\ufdd0": "～", "\n": " ", "\x07": None}
    )
    assert normaliser.trace("～\x07\nＡ") == [("～", 0, 1), (" ", 2, 3), ("A", 3, 4)]


def test_what_was_given_to_the_tokenizer():
    data = b" a\xf0\x9f b\xff"
    assert list(given_units(data, None)) == [(b" a", " a"), (b"\xf0\x9f",) * 2, (b" b", " b"), (b"\xff",) * 2]
    # One replacement character for a broken piece or two, and the first space lost.
    assert list(given_units(data, "a\ufffd b\ufffd"))[:3] == [
        (b" ", ""),
        (b"a", "a"),
        (b"\xf0\x9f", "\ufffd"),
    ]
    assert list(given_units(data, " a\ufffd\ufffd b\ufffd"))[1] == (b"\xf0\x9f", "\ufffd\ufffd")
    with pytest.raises(TruthError, match="was given"):
        list(given_units(data, "other"))


def test_wordpiece_sources():
    # "Zoë" loses its mark, the bell is dropped, the second word is unknown.
    assert bert_pieces(["zo", "##e", ",", "[UNK]", "x"], "Zoë,\x07 🦜🦜  X") == [
        (0, 2),
        (2, 3),
        (3, 4),
        (6, 8),
        (10, 11),
    ]
    # A control token where the text spells its name, and the same text as text.
    assert bert_pieces(["[CLS]", "a"], "[CLS] a") == [(0, 5), (6, 7)]
    assert bert_pieces(["[", "cl", "##s", "]"], "[CLS]") == [(0, 1), (1, 3), (3, 4), (4, 5)]
    with pytest.raises(ValueError, match="goes on"):
        bert_pieces(["zo", "x"], "zoe x")


def test_odd_segments_spell_the_text_and_depend_on_the_seed():
    tokens = {b"a": [1], b"b": [2], b"ab": [3, 4], b"ba": [5]}
    spelled = {index: piece for piece, ids in tokens.items() for index in ids}
    first, again, other = (segment(b"abba" * 9, tokens, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert b"".join(map(spelled.get, first)) == b"abba" * 9
    with pytest.raises(KeyError):
        segment(b"abc", tokens, random.Random(0))


def test_percentages_are_never_rounded_to_certainty():
    assert [percent(*share) for share in ((0, 9), (9, 9), (1, 10**6), (10**6 - 1, 10**6), (1, 8))] == [
        "0", "100", "< .01", "> 99.99", "12.50",
    ]  # fmt: skip
