"""Ids and bytes of synthetic tokenizers, by hand: spelling, round trips, canonical flags, events, maps."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

import tiny
from dragoman.errors import TokenizerError
from dragoman.text import Tokenization, vocabulary_map
from dragoman.text.encoding import stand_in
from dragoman.text.spelling import Spelling, byte_alphabet, read_structure, spell_vocabulary
from dragoman.types import Event, TokenText

BROKEN = [
    b"caf\xc3",
    b"\xff\xfe ok \x80",
    "the end is 漢字".encode()[:-1],
    "the end is 漢字".encode()[:-2],
    "👍".encode()[:3] + b" go on",
    b"\xc3(\xa9",
    b"\xed\xa0\x80",
    bytes(range(256)),
]


def save(backend: Tokenizer, folder: Path, **settings: object) -> Tokenization:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenization.from_pretrained(str(folder))


def tokens(text: TokenText) -> list[bytes]:
    return [text.token_bytes(i) for i in range(len(text))]


def ids_of(tokenization: Tokenization, pieces: Sequence[str]) -> list[int]:
    """Ids by their names in the vocabulary."""
    found = [tokenization.token_id(piece) for piece in pieces]
    assert None not in found, f"{pieces} -> {found}"
    return [index for index in found if index is not None]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    return Tokenization.from_pretrained(str(tiny.byte_level(tmp_path_factory.mktemp("byte-level"))))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    return Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path_factory.mktemp("sentencepiece"))))


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def tokenization(request: pytest.FixtureRequest) -> Tokenization:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Tokenization)
    return found


class TestSpelling:
    def test_byte_alphabet(self) -> None:
        alphabet = byte_alphabet()
        assert sorted(alphabet.values()) == list(range(256))
        assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
        # Printable ASCII stands for itself; 0x00 to 0x20 are the first 33 of the others, so a space is
        # U+0100 + 32 and a line break U+0100 + 10. 0xAD comes after those, 0x7F and 0x80-0xA0 (34): 67.
        assert alphabet["A"] == 0x41
        assert alphabet["é"] == 0xE9
        assert alphabet["\u0120"] == 0x20
        assert alphabet["\u010a"] == 0x0A
        assert alphabet["\u0143"] == 0xAD

    def test_byte_level(self) -> None:
        backend = Tokenizer(models.BPE({"Ġa": 0, "Ã": 1, "©": 2, "Ċ": 3, "é": 4}, []))
        backend.decoder = decoders.ByteLevel()
        structure = read_structure(backend)
        assert structure.spelling is Spelling.BYTE_LEVEL
        # "Ã©" is the two bytes of "é" in UTF-8; the character "é" stands for the lone byte E9.
        expected = [b" a", b"\xc3", b"\xa9", b"\n", b"\xe9"]
        assert spell_vocabulary(backend, structure).tolist() == expected

    def test_byte_level_added_tokens_are_verbatim(self) -> None:
        backend = Tokenizer(models.BPE({"a": 0}, []))
        backend.decoder = decoders.ByteLevel()
        backend.add_tokens([AddedToken("é tool")])
        assert spell_vocabulary(backend, read_structure(backend))[1] == "é tool".encode()

    def test_byte_level_with_a_strange_character(self) -> None:
        backend = Tokenizer(models.BPE({"日": 0}, []))
        backend.decoder = decoders.ByteLevel()
        with pytest.raises(TokenizerError, match=r"token '日' holds '日'.*byte-level alphabet"):
            spell_vocabulary(backend, read_structure(backend))

    def test_sentencepiece(self) -> None:
        vocabulary = {"▁a": 0, "<0xC3>": 1, "é": 2, "▁▁": 3, "<0xZZ>": 4, "a<0x20>": 5}
        backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
        structure = read_structure(backend)
        assert (structure.spelling, structure.byte_fallback) == (Spelling.SENTENCEPIECE, True)
        # Only a whole token of that form is a byte.
        expected = [b" a", b"\xc3", "é".encode(), b"  ", b"<0xZZ>", b"a<0x20>"]
        assert spell_vocabulary(backend, structure).tolist() == expected

    def test_sentencepiece_in_characters_of_all_sizes_and_ids_without_a_token(self) -> None:
        backend = Tokenizer(models.BPE({"▁é": 4, "▁": 0, "数▁🙂": 2, "\x7f\x80\u07ff\u0800": 5}, []))
        backend.decoder = decoders.Metaspace()
        expected = [b" ", b"", "数 🙂".encode(), b"", " é".encode(), "\x7f\x80\u07ff\u0800".encode()]
        assert spell_vocabulary(backend, read_structure(backend)).tolist() == expected

    def test_sentencepiece_without_byte_fallback(self) -> None:
        backend = Tokenizer(models.BPE({"<0xC3>": 0}, []))
        backend.decoder = decoders.Metaspace()
        assert spell_vocabulary(backend, read_structure(backend)).tolist() == [b"<0xC3>"]

    def test_wordpiece(self) -> None:
        backend = Tokenizer(models.WordPiece({"[UNK]": 0, "word": 1, "##s": 2}, unk_token="[UNK]"))
        backend.decoder = decoders.WordPiece()
        structure = read_structure(backend)
        assert (structure.spelling, structure.affix) == (Spelling.WORDPIECE, "##")
        assert spell_vocabulary(backend, structure).tolist() == [b" [UNK]", b" word", b"s"]

    def test_end_of_word_suffix(self) -> None:
        backend = Tokenizer(models.BPE({"lo": 0, "w</w>": 1}, []))
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        structure = read_structure(backend)
        assert structure.spelling is Spelling.SUFFIX
        assert spell_vocabulary(backend, structure).tolist() == [b"lo", b"w "]


class TestRoundTrip:
    @given(text=st.text(max_size=40))
    def test_any_text(self, tokenization: Tokenization, text: str) -> None:
        self._check(tokenization, text.encode("utf-8", errors="replace"))

    @given(data=st.binary(max_size=40))
    def test_any_bytes(self, tokenization: Tokenization, data: bytes) -> None:
        self._check(tokenization, data)

    @pytest.mark.parametrize("data", BROKEN)
    def test_broken_bytes(self, tokenization: Tokenization, data: bytes) -> None:
        self._check(tokenization, data)

    def _check(self, tokenization: Tokenization, data: bytes) -> None:
        text = tokenization.encode(data)
        assert text.data == data
        assert b"".join(tokens(text)) == data
        assert not text.event.any()
        again = tokenization.view(text)
        assert again.ids.tolist() == text.ids.tolist()
        assert again.data == data
        assert again.canonical.all()

    def test_ids_are_the_tokenizers_own(self, byte_level: Tokenization, tmp_path: Path) -> None:
        backend = Tokenizer.from_file(str(tiny.byte_level(tmp_path) / "tokenizer.json"))
        for sentence in tiny.CORPUS:
            own = backend.encode(sentence, add_special_tokens=False).ids
            assert byte_level.encode(sentence.encode()).ids.tolist() == own

    def test_bounds_of_a_split_character(self, sentencepiece: Tokenization) -> None:
        # "é" is not in the vocabulary: two byte tokens, ids 6 + 0xC3 and 6 + 0xA9.
        text = sentencepiece.encode("é".encode())
        assert text.ids.tolist() == [6 + 0xC3, 6 + 0xA9]
        assert text.bounds.tolist() == [0, 1, 2]

    def test_empty(self, tokenization: Tokenization) -> None:
        for text in (tokenization.encode(b""), tokenization.view([])):
            assert (len(text), text.data, text.bounds.tolist()) == (0, b"", [0])

    def test_a_cut_character_keeps_the_words_before_it(self, byte_level: Tokenization) -> None:
        # "é" is C3 A9; without its last byte it is still a word of its own, after a space.
        cut = byte_level.encode("The answer is é".encode()[:-1])
        assert tokens(cut) == [b"The", b" answer", b" is", b" ", b"\xc3"]

    def test_stand_in(self) -> None:
        # "字" is E5 AD 97; its first two bytes are one broken piece, FF another.
        text = stand_in(b"a\xffb" + "字".encode()[:2])
        assert text.sources == [b"a", b"\xff", b"b", b"\xe5\xad"]
        assert text.broken == {1, 3}
        assert text.text[:3] == "a\ufffdb"
        assert text.text[3].encode().startswith(b"\xe5\xad")


class TestCanonical:
    def test_a_split_word_is_flagged_and_the_rest_is_not(self, byte_level: Tokenization) -> None:
        text = byte_level.view(ids_of(byte_level, ["The", "Ġan", "swer", "Ġis"]))
        assert text.data == b"The answer is"
        assert text.canonical.tolist() == [True, False, False, True]
        assert text.num_noncanonical == 2

    def test_both_spellings(self, sentencepiece: Tokenization) -> None:
        text = sentencepiece.view(ids_of(sentencepiece, ["The", "▁", "an", "swer", "▁is"]))
        assert text.data == b"The answer is"
        assert text.canonical.tolist() == [True, False, False, False, True]

    def test_a_byte_token_beside_the_characters_own(self, sentencepiece: Tokenization) -> None:
        own = sentencepiece.encode(b"?").ids.tolist()
        byte_token = 6 + ord("?")
        assert own != [byte_token]
        assert sentencepiece.view([byte_token]).canonical.tolist() == [False]
        assert sentencepiece.view([byte_token]).data == b"?"

    def test_events_divide_the_text(self, byte_level: Tokenization) -> None:
        # " an" + <|im_start|> + "swer": each piece is by itself what the tokenizer makes of it.
        ids = ids_of(byte_level, ["Ġan", "<|im_start|>", "Ġanswer"])
        assert byte_level.view(ids).canonical.tolist() == [True, True, True]

    def test_normalisation_is_flagged_where_it_strikes(self, tmp_path: Path) -> None:
        nfc = Tokenization.from_pretrained(
            str(tiny.byte_level(tmp_path / "nfc", normalizer=normalizers.NFC()))
        )
        # The same merges without the normaliser, to have the ids of decomposed text.
        plain = Tokenization.from_pretrained(str(tiny.byte_level(tmp_path / "plain")))
        data = unicodedata.normalize("NFD", "The answer is é. The question is here").encode()
        ids = plain.encode(data).ids
        text = nfc.view(ids)
        assert text.data == data
        wrong = [text.token_bytes(i) for i in np.flatnonzero(~text.canonical).tolist()]
        # e + U+0301 (CC 81) becomes é (C3 A9): the e and the two bytes of the accent have no counterpart.
        assert b"".join(wrong).strip() == b"e\xcc\x81"
        assert text.canonical[:3].all() and text.canonical[-4:].all()

    def test_long_texts_are_viewed_in_linear_time(self, byte_level: Tokenization) -> None:
        word = ids_of(byte_level, ["Ġan", "swer", "Ġis"])
        started = time.perf_counter()
        text = byte_level.view(word * 5000)
        assert time.perf_counter() - started < 5
        assert text.canonical.tolist() == [False, False, True] * 5000


class TestEvents:
    def test_control_tokens_have_no_width(self, byte_level: Tokenization) -> None:
        text = byte_level.view(ids_of(byte_level, ["<|im_start|>", "The", "<|im_end|>", "<|endoftext|>"]))
        assert text.event.tolist() == [Event.CONTROL, Event.NONE, Event.CONTROL, Event.STOP]
        assert text.bounds.tolist() == [0, 0, 3, 3, 3]
        assert text.data == b"The"
        assert text.canonical.all()

    def test_with_stops(self, byte_level: Tokenization) -> None:
        ids = ids_of(byte_level, ["<|im_end|>", "<|endoftext|>"])
        other = byte_level.with_stops([ids[0]])
        assert other.view(ids).event.tolist() == [Event.STOP, Event.CONTROL]
        assert byte_level.view(ids).event.tolist() == [Event.CONTROL, Event.STOP]
        assert byte_level.with_stops(byte_level.stop_ids) is byte_level

    def test_a_stop_that_is_an_ordinary_token(self, byte_level: Tokenization) -> None:
        ids = ids_of(byte_level, ["The", "Ġanswer"])
        text = byte_level.with_stops(ids[1:]).view(ids)
        assert text.event.tolist() == [Event.NONE, Event.STOP]
        assert text.data == b"The"

    def test_a_stop_outside_the_vocabulary(self, byte_level: Tokenization) -> None:
        with pytest.raises(TokenizerError, match=r"stop ids \[400\].*outside its 400 ids"):
            byte_level.with_stops([400])

    @pytest.mark.parametrize(
        "name", ["<|im_end|>", "<|endoftext|>", "</s>", "<end_of_turn>", "<unk>", "<0x0A>"]
    )
    def test_text_that_spells_one_is_text(self, tokenization: Tokenization, name: str) -> None:
        data = f"a {name}{name} b".encode()
        text = tokenization.encode(data)
        assert text.data == data
        assert not text.event.any()
        assert tokenization.view(text).canonical.all()

    def test_padded_ids_are_events(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path)
        (folder / "config.json").write_text(json.dumps({"vocab_size": 448}))
        padded = Tokenization.from_pretrained(str(folder))
        assert padded.num_ids == 448
        assert padded.view([399, 400, 447]).event.tolist() == [Event.NONE, Event.CONTROL, Event.CONTROL]
        assert padded.token_bytes(447) == b""
        with pytest.raises(TokenizerError, match=r"id 448 at token 1 is outside the 448 ids"):
            padded.view([5, 448])

    def test_padding_of_a_nested_configuration(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path)
        (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 512}}))
        assert Tokenization.from_pretrained(str(folder)).num_ids == 512

    @pytest.mark.parametrize("wrong", [-1, 400, 10**6])
    def test_an_id_out_of_range(self, byte_level: Tokenization, wrong: int) -> None:
        with pytest.raises(TokenizerError, match=rf"id {wrong} at token 0.*another tokenizer"):
            byte_level.view([wrong])
        with pytest.raises(TokenizerError, match=f"id {wrong}"):
            byte_level.token_bytes(wrong)

    def test_names(self, byte_level: Tokenization) -> None:
        assert byte_level.token_id("<|im_end|>") == 2
        assert byte_level.token_id("<|nothing|>") is None
        assert byte_level.token_name(2) == "<|im_end|>"


class TestLosses:
    def test_lossless(self, tokenization: Tokenization) -> None:
        assert tokenization.losses == ()
        assert tokenization.lossless

    def test_nfc(self, tmp_path: Path) -> None:
        found = Tokenization.from_pretrained(str(tiny.byte_level(tmp_path, normalizer=normalizers.NFC())))
        assert found.losses == ("decomposed (NFD)",)

    def test_lower_case(self, tmp_path: Path) -> None:
        found = Tokenization.from_pretrained(
            str(tiny.byte_level(tmp_path, normalizer=normalizers.Lowercase()))
        )
        assert "case" in found.losses and not found.lossless
        assert "chinese" not in found.losses
        assert found.encode(b"ABC Def").data == b"abc def"

    def test_no_byte_fallback(self, tmp_path: Path) -> None:
        backend = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "▁": 2}, [], unk_token="<unk>"))
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Replace("▁", " ")
        found = save(backend, tmp_path)
        # "b" has no token: the unknown token is an event without bytes.
        text = found.encode(b"a b")
        assert text.data == b"a "
        assert text.event.tolist() == [Event.NONE, Event.NONE, Event.CONTROL]
        assert "ascii" in found.losses

    def test_dummy_prefix_is_left_out(self, tmp_path: Path) -> None:
        found = Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path, dummy_prefix=True)))
        assert found.dummy_prefix
        assert found.losses == ()
        for data in (b"The answer", b" The answer", b"  The"):
            assert found.encode(data).data == data
            assert found.view(found.encode(data)).canonical.all()

    def test_metaspace(self, tmp_path: Path) -> None:
        backend = Tokenizer(
            models.BPE({"<unk>": 0, "▁a": 1, "a": 2, "▁": 3}, [("▁", "a")], unk_token="<unk>")
        )
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        found = save(backend, tmp_path)
        assert found.dummy_prefix
        assert found.encode(b"a").ids.tolist() == [2]
        assert found.encode(b" a").ids.tolist() == [1]


class TestVocabularyMap:
    def test_by_bytes_and_not_by_name(self, tmp_path: Path) -> None:
        student = Tokenizer(models.BPE({"Ġa": 0, "Ã": 1, "b": 2, "Ċ": 3, "<|end|>": 4}, []))
        student.decoder = decoders.ByteLevel()
        student.add_special_tokens(["<|end|>"])
        names = ["<end>", "b", "▁a", "<0xC3>", "<0x0A>", "\n", "Ã"]
        teacher = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
        teacher.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
        teacher.add_special_tokens(["<end>"])
        found = vocabulary_map(
            save(student, tmp_path / "s", eos_token="<|end|>"),
            save(teacher, tmp_path / "t", eos_token="<end>"),
        )
        # " a" 0-2, byte C3 1-3 (not the character "Ã", id 6, which is C3 83), "b" 2-1, line break 3-5: the
        # teacher itself writes it as the character, not the byte token 4. Control tokens take no part.
        assert found.student_ids.tolist() == [0, 1, 2, 3]
        assert found.teacher_ids.tolist() == [2, 3, 1, 5]
        assert len(found) == 4

    def test_one_to_one(self, byte_level: Tokenization, sentencepiece: Tokenization) -> None:
        found = vocabulary_map(byte_level, sentencepiece)
        assert len(set(found.student_ids.tolist())) == len(set(found.teacher_ids.tolist())) == len(found)
        assert (np.diff(found.student_ids) > 0).all()
        for a, b in zip(found.student_ids.tolist(), found.teacher_ids.tolist(), strict=True):
            assert byte_level.token_bytes(a) == sentencepiece.token_bytes(b) != b""
        # Both have a token for each of the 256 bytes.
        assert len(found) >= 256

    def test_with_itself(self, tokenization: Tokenization) -> None:
        found = vocabulary_map(tokenization, tokenization)
        spelled = [data for data in tokenization.vocabulary_bytes() if data]
        assert found.student_ids.tolist() == found.teacher_ids.tolist()
        assert len(found) == len(set(spelled))

    def test_nothing_shared(self, tmp_path: Path) -> None:
        one, other = Tokenizer(models.BPE({"a": 0}, [])), Tokenizer(models.BPE({"b": 0}, []))
        found = vocabulary_map(save(one, tmp_path / "one"), save(other, tmp_path / "other"))
        assert len(found) == 0
