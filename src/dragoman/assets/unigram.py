"""A SentencePiece Unigram model -> a `tokenizer.json` that gives the same ids.

Three details decide whether the ids agree:

* `nmt_nfkc` normalisation is NFKC, except for the fullwidth tilde, then SentencePiece's own clean-up of
  controls and blanks. The `Precompiled` normaliser would read the table from the model file but drops
  combining marks that the table leaves alone, so the standard steps are used. They differ from the table
  only in that they also sort and compose stacked combining marks (and know U+1F23B);
* byte pieces never match text that spells them (`<0x41>`): their score, 0 in the file, is put far below
  that of the characters they are spelled with, which must be pieces themselves;
* user-defined pieces are matched before anything else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dragoman.errors import AssetError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_NEVER = -1000.0
_FULLWIDTH_TILDE, _STAND_IN = "\uff5e", "\ufdd0"  # U+FDD0 is a noncharacter, kept for such internal uses
_BYTE_SPELLING = frozenset("<0x123456789ABCDEF>")


def convert_sentencepiece(source: Path, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` of the model file `source` into `folder`.

    AssetError when `sentencepiece` is not installed or the model uses a setting not supported here.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise AssetError(
            "reading a SentencePiece model needs the packages `sentencepiece` and `protobuf` "
            f"({error}): pip install sentencepiece protobuf"
        ) from error

    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto()
    model.ParseFromString(source.read_bytes())
    _check_supported(model)
    _tokenizer(model).save(str(folder / "tokenizer.json"), pretty=False)
    trainer = model.trainer_spec
    config = {
        "bos_token": trainer.bos_piece,
        "eos_token": trainer.eos_piece,
        "unk_token": trainer.unk_piece,
        "pad_token": trainer.pad_piece,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")


def _check_supported(model: Any) -> None:
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    facts = {
        "model_type": (trainer.model_type, trainer.UNIGRAM),
        "normalizer": (normalizer.name, "nmt_nfkc"),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, False),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, False),
        "escape_whitespaces": (normalizer.escape_whitespaces, True),
        "byte_fallback": (trainer.byte_fallback, True),
    }
    for name, (got, expected) in facts.items():
        if got != expected:
            raise AssetError(
                f"SentencePiece model has {name} = {got!r}, only {expected!r} is supported: the tokenizer "
                "would give other ids than the model was trained on"
            )
    missing = _BYTE_SPELLING - {piece.piece for piece in model.pieces if piece.type == _NORMAL}
    if missing:
        raise AssetError(
            f"SentencePiece model has no piece for the characters {''.join(sorted(missing))!r}: text that "
            "spells a byte piece, such as <0x41>, would become that byte"
        )


def _tokenizer(model: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = [
        (piece.piece, piece.score if piece.type in (_NORMAL, _USER_DEFINED) else _NEVER)
        for piece in model.pieces
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=model.trainer_spec.unk_id, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_FULLWIDTH_TILDE, _STAND_IN),
            normalizers.NFKC(),
            normalizers.Nmt(),
            normalizers.Replace(_STAND_IN, _FULLWIDTH_TILDE),
            normalizers.Replace(" ", "▁"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )

    def added(kinds: tuple[int, ...], *, special: bool) -> list[Any]:
        return [
            AddedToken(piece.piece, normalized=False, special=special)
            for piece in model.pieces
            if piece.type in kinds
        ]

    tokenizer.add_special_tokens(added((_UNKNOWN, _CONTROL), special=True))
    tokenizer.add_tokens(added((_USER_DEFINED,), special=False))
    return tokenizer
