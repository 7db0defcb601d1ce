"""Where the tokens of a lossy tokenizer stand on the text they were made of, by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import tiny
from dragoman.alignment import align
from dragoman.text import Tokenization
from dragoman.text.placing import find_places
from dragoman.types import Event, PairKind
from naive import token_text
from placement import bert, check_placed, lower, nfc, nfkc, symbols_of, without_accents

Row = tuple[bytes, bytes, str]


def byte_level(folder: Path, normalizer: normalizers.Normalizer) -> Tokenization:
    return Tokenization.from_pretrained(str(tiny.byte_level(folder, normalizer=normalizer)))


def rows(tokenization: Tokenization, data: bytes) -> list[Row]:
    """The bytes of both sides of every row; an unpaired event cannot be in one."""
    placed = tokenization.place(data)
    assert placed.text.data == tokenization.encode(data).data
    if placed.correspondence is None:
        return [(data, data, "same")]
    symbols = symbols_of(placed.text)
    spans, kinds = placed.correspondence.spans.tolist(), placed.correspondence.kind.tolist()
    return [
        (data[a:b], b"".join(s for s in symbols[c:d] if s is not None), PairKind(kind).name.lower())
        for (a, b, c, d), kind in zip(spans, kinds, strict=True)
    ]


@pytest.fixture(scope="module")
def word_piece(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    """Lower-cases, drops accents and white space, and knows six words."""
    words = ["[UNK]", "if", "return", "x", "##x", "cafe", "."]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    folder = tmp_path_factory.mktemp("word-piece")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    return Tokenization.from_pretrained(str(folder))


class TestByteLevel:
    def test_what_comes_back_needs_no_rows(self, tmp_path: Path) -> None:
        assert rows(byte_level(tmp_path, normalizers.NFC()), "é b".encode()) == [
            ("é b".encode(),) * 2 + ("same",)
        ]

    def test_composed(self, tmp_path: Path) -> None:
        # The tokens of é are two bytes, made of one letter and an accent: a group of its own
        found = rows(byte_level(tmp_path, normalizers.NFC()), "a e\u0301 b".encode())
        assert [row for row in found if row[2] == "normalised"] == [
            ("e\u0301".encode(), "é".encode(), "normalised")
        ]
        assert b"".join(row[0] for row in found) == "a e\u0301 b".encode()

    def test_accents_that_change_places(self, tmp_path: Path) -> None:
        # Composition takes the dot below although another accent stands before it. The tokenizer's places
        # are then one off, so that only letter and accents together can be believed.
        found = rows(byte_level(tmp_path, normalizers.NFC()), "a\u0308\u0323 b".encode())
        assert found[0] == ("a\u0308\u0323".encode(), "\u1ea1\u0308".encode(), "normalised")
        assert found[1:] == [(b" b", b" b", "exact")]

    def test_one_character_that_becomes_many(self, tmp_path: Path) -> None:
        found = rows(byte_level(tmp_path, normalizers.NFKC()), "x\ufb03x\u00bd".encode())
        assert ("\ufb03".encode(), b"ffi", "normalised") in found
        assert ("½".encode(), "1\u20442".encode(), "normalised") in found

    def test_dropped_accents_go_with_their_letter(self, tmp_path: Path) -> None:
        strip = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
        found = rows(byte_level(tmp_path, strip), "e\u0301\u0323 e".encode())
        assert found[0] == ("e\u0301\u0323".encode(), b"e", "normalised")
        assert found[1] == (b" e", b" e", "exact")

    @pytest.mark.parametrize("normalizer", [normalizers.NFC(), normalizers.NFKC()])
    @pytest.mark.parametrize("data", [b"\xffe\xcc\x81", b"e\xcc\x81\xff", b"\xe2\x82e\xcc\x81 e\xcc\x81"])
    def test_broken_bytes_beside_what_is_composed(
        self, tmp_path: Path, normalizer: normalizers.Normalizer, data: bytes
    ) -> None:
        """A word that holds a broken byte is written as it is, its last accent included."""
        tokenization = byte_level(tmp_path, normalizer)
        placed = tokenization.place(data)
        check_placed(data, placed, nfc)
        pairs = placed.correspondence
        if pairs is not None:
            assert (pairs.spans[:, 1] - pairs.spans[:, 0]).sum() == len(data), "all bytes have a place"
            assert (pairs.spans[:, 3] - pairs.spans[:, 2]).sum() == len(placed.text.data)
        else:
            assert placed.text.data == data

    @pytest.mark.parametrize("data", [b"\xcc", b"a\xcc b", b"\xcca", b" \xcc\xcc"])
    def test_broken_bytes_that_begin_an_accent(self, tmp_path: Path, data: bytes) -> None:
        """CC begins an accent, which this normaliser drops; the byte is written all the same."""
        strip = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
        tokenization = byte_level(tmp_path, strip)
        assert tokenization.encode(data).data == data
        assert tokenization.view(tokenization.encode(data)).canonical.all()

    def test_broken_bytes_behind_one_character_that_becomes_many_words(self, tmp_path: Path) -> None:
        # U+FDFA becomes four words, the last of which the letter that is cut short continues
        data = "\ufdfa日".encode()[:-1]
        tokenization = byte_level(tmp_path, normalizers.NFKC())
        assert tokenization.encode(data).data in (data, nfkc("\ufdfa").encode() + data[3:])
        check_placed(data, tokenization.place(data), nfkc)


class TestWordPiece:
    def test_white_space_goes_with_the_next_word(self, word_piece: Tokenization) -> None:
        assert rows(word_piece, b"if X:\n") == [(b"if", b" if", "normalised"), (b" X", b" x", "normalised")]
        found = rows(word_piece, b"if\n    Return x.\n")
        assert found == [
            (b"if", b" if", "normalised"),
            (b"\n    Return", b" return", "normalised"),
            (b" x", b" x", "exact"),
            (b".\n", b" .", "normalised"),
        ]

    def test_pieces_of_a_word(self, word_piece: Tokenization) -> None:
        # Both pieces are what they were made of, but for the first one's blank
        assert rows(word_piece, b"xx") == [(b"x", b" x", "normalised"), (b"x", b"x", "exact")]

    def test_accents_and_controls(self, word_piece: Tokenization) -> None:
        found = rows(word_piece, "Cafe\u0301 \x00x".encode())
        assert found == [
            ("Cafe\u0301".encode(), b" cafe", "normalised"),
            (b" \x00x", b" x", "normalised"),
        ]

    def test_an_unknown_word_is_lost_alone(self, word_piece: Tokenization) -> None:
        data = b"x what? x"
        placed = word_piece.place(data)
        assert placed.text.event.tolist() == [Event.NONE, Event.CONTROL, Event.CONTROL, Event.NONE]
        assert rows(word_piece, data) == [(b"x", b" x", "normalised"), (b" x", b" x", "exact")]
        # Its symbols lie between those of the rows: " x" is 0 to 2, the unknown tokens 2 and 3
        assert placed.correspondence is not None
        assert placed.correspondence.spans.tolist() == [[0, 1, 0, 2], [7, 9, 4, 6]]

    def test_a_response_is_compared_word_by_word(self, word_piece: Tokenization) -> None:
        # student |if|\n   | X|what|.|   teacher | if| x|[UNK]| .|
        student = token_text([b"if", b"\n   ", b" X", b" what", b"."])
        placed = word_piece.place(student.data)
        alignment = align(student, placed.text, placed.correspondence)
        assert alignment.student_bounds.tolist() == [0, 1, 3, 4, 5]
        assert alignment.teacher_bounds.tolist() == [0, 1, 2, 3, 4]
        assert alignment.comparable.tolist() == [True, True, False, True]

    @pytest.mark.parametrize("data", [b"", b"  \n", b"\x00", b"\xff", b"\xff if \xc3"])
    def test_texts_of_nothing_to_place(self, word_piece: Tokenization, data: bytes) -> None:
        check_placed(data, word_piece.place(data), bert)


def readable(data: bytes) -> bytes:
    return data.decode(errors="replace").encode()


class TestFindPlaces:
    def test_a_place_that_cannot_be_believed(self) -> None:
        # The tokenizer claims that "x" was made of "b", which its normaliser denies: no row for it
        data, text = b"abc", token_text([b"a", b"x", b"c"])
        spans = np.array([[0, 1], [1, 2], [2, 3]])
        found = find_places(data, text, spans, bytes.lower)
        assert found.spans.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
        assert found.kind.tolist() == [PairKind.EXACT] * 2

    def test_bytes_without_a_token_are_lost_alone(self) -> None:
        # FF has no token and is no white space: "a", before it, is still what it was made of
        data, text = b"xa\xffb", token_text([b"x", b"a", b"b"])
        found = find_places(data, text, np.array([[0, 1], [1, 2], [3, 4]]), readable)
        assert found.spans.tolist() == [[0, 1, 0, 1], [1, 2, 1, 2], [3, 4, 2, 3]]
        assert found.kind.tolist() == [PairKind.EXACT] * 3

    def test_tokens_of_no_characters_go_with_their_neighbours(self) -> None:
        data, text = b"Ab", token_text([b" ", b"a", b"b"])
        found = find_places(data, text, np.array([[0, 0], [0, 1], [1, 2]]), bytes.lower)
        assert found.spans.tolist() == [[0, 1, 0, 2], [1, 2, 2, 3]]

    def test_an_unreadable_character_does_not_say_what_was_written(self) -> None:
        data, text = b"a\xffb", token_text([b"a", "\ufffd".encode(), b"b"])
        spans = np.array([[0, 1], [1, 2], [2, 3]])
        found = find_places(data, text, spans, readable)
        assert found.spans.tolist() == [[0, 1, 0, 1], [2, 3, 4, 5]]

    def test_no_tokens(self) -> None:
        found = find_places(b"  ", token_text([]), np.zeros((0, 2), np.int64), bytes.lower)
        assert len(found.kind) == 0


@pytest.mark.parametrize("normalizer", ["lower", "accents"])
def test_cost_is_linear(tmp_path: Path, normalizer: str) -> None:
    """Ten times the text takes no more than twenty times as long, where every word is changed."""
    made = normalizers.Lowercase() if normalizer == "lower" else normalizers.NFC()
    tokenization = byte_level(tmp_path, made)
    data = "The Te\u0301acher ".encode() * 1_000

    def seconds(size: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            tokenization.place(data * size)
            best = min(best, time.perf_counter() - start)
        return best

    seconds(1)
    assert seconds(10) < 20 * seconds(1)


def test_lower_case_and_accents_together(tmp_path: Path) -> None:
    made = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenization = byte_level(tmp_path, made)
    data = "Ångström, Élan; ΟΔΟΣ İ".encode()
    check_placed(data, tokenization.place(data), lambda text: lower(without_accents(text)))
