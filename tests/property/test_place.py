"""Places of the tokens of tokenizers that normalise: every row is true, on random text and broken bytes."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

import tiny
from dragoman.alignment import align
from dragoman.text import Tokenization
from dragoman.types import ChunkKind, DropReason
from naive import token_text
from placement import Normal, check_placed, lower, nfc, nfkc, without_accents

MADE: dict[str, tuple[normalizers.Normalizer, Normal]] = {
    "NFC": (normalizers.NFC(), nfc),
    "NFKC": (normalizers.NFKC(), nfkc),
    "lower case": (normalizers.Lowercase(), lower),
    "accents": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), without_accents),
    "all": (
        normalizers.Sequence(
            [normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        ),
        lambda text: lower(without_accents(nfkc(text))),
    ),
}

FRAGMENTS = (
    *(
        "a",
        "E",
        " ",
        "the",
        " The",
        "    ",
        "\r\n",
        "é",
        "e\u0301",
        "\u0301",
        "\u0323",
        "a\u0308\u0323",
        "\u0345",
    ),
    *("ﬁ", "\ufdfa", "①", "½", "\u00a0", "\u3000", "漢", "한", "\u1112", "\u1161", "\u11ab", "İ", "ΣΣ", "ẞ"),
    *("👩\u200d👧", "नि", "\u0e33", "\u200b", "\x00", "\u212b", "1"),
)
# Blocks that have not changed since the tables of either library were made.
old = st.characters(max_codepoint=0x0556, exclude_categories=("Cn", "Cs"))
texts = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join), st.text(old, max_size=20))
pieces = st.one_of(texts.map(str.encode), st.sampled_from([b"\xff", b"\xe2\x82", b"\x80", b"\xc3", b"\xcc"]))
broken = st.lists(pieces, max_size=6).map(b"".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("normalisers")


@cache
def load(folder: Path, name: str) -> Tokenization:
    path = tiny.byte_level(folder / name.replace(" ", "-"), normalizer=MADE[name][0])
    return Tokenization.from_pretrained(str(path))


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=300, deadline=None)
@given(data=texts.map(str.encode))
def test_every_row_is_true_and_nothing_is_lost(folder: Path, name: str, data: bytes) -> None:
    placed = load(folder, name).place(data)
    check_placed(data, placed, MADE[name][1])
    pairs = placed.correspondence
    if pairs is not None and len(placed.text):
        assert (pairs.spans[:, 1] - pairs.spans[:, 0]).sum() == len(data)
        assert (pairs.spans[:, 3] - pairs.spans[:, 2]).sum() == len(placed.text.data)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=300, deadline=None)
@given(data=broken)
def test_every_row_is_true_of_broken_bytes(folder: Path, name: str, data: bytes) -> None:
    check_placed(data, load(folder, name).place(data), MADE[name][1])


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=100, deadline=None)
@given(data=broken, cuts=st.sets(st.integers(1, 200)))
def test_any_student_is_compared_wholly_or_told_why(
    folder: Path, name: str, data: bytes, cuts: set[int]
) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    student = token_text([data[a:b] for a, b in pairwise(places)])
    placed = load(folder, name).place(data)
    alignment = align(student, placed.text, placed.correspondence)
    for c in range(alignment.num_chunks):
        s = slice(*student.bounds[alignment.student_bounds[c : c + 2]])
        t = slice(*placed.text.bounds[alignment.teacher_bounds[c : c + 2]])
        assert alignment.comparable[c] == (alignment.reasons[c] == DropReason.NONE)
        if alignment.comparable[c] and alignment.kind[c] < ChunkKind.NORMALISED:
            assert data[s] == placed.text.data[t]
