"""The tokenizer inside a GGUF file -> Hugging Face files that give the original model's ids.

transformers rebuilds a tokenizer from GGUF metadata. Three things are lost on the way and repaired here,
each from the metadata itself:

* the pre-tokenizer named by `tokenizer.ggml.pre` (SmolLM2 splits off every digit before anything else;
  without it two blanks before a digit become two tokens);
* the rank of user-defined pieces of a SentencePiece vocabulary (runs of blanks, line ends and tabs): they
  carry a sentinel score but come first, so a run of 40 blanks is 31 + 9, not 16 + 24;
* what is control: GGUF marks reserved pieces (`<unused7>`, `<mask>`) control and image borders text; the
  original has it the other way round.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.assets.tokenizer_files import use_exact_tokenizer
from dragoman.errors import AssetError

if TYPE_CHECKING:
    from gguf import GGUFReader

_USER_DEFINED = 4
_RESERVED = re.compile(r"<unused\d+>|<mask>")
_IMAGE_BORDER = re.compile(r"<(start|end)_of_image>")
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    }
}


def write_tokenizer(reader: GGUFReader, gguf: Path, folder: Path, *, context_length: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and, if the file has one, the chat template.

    AssetError when the file names a pre-tokenizer whose rules are not known here.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.model_max_length = context_length
    if tokenizer.mask_token is not None and _RESERVED.fullmatch(tokenizer.mask_token):
        tokenizer.mask_token = None
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    if reader.fields["tokenizer.ggml.model"].contents() == "gpt2":
        spec["pre_tokenizer"] = _pre_tokenizer(reader.fields["tokenizer.ggml.pre"].contents())
    else:
        _repair_sentencepiece(reader, spec)
    path.write_text(json.dumps(spec, ensure_ascii=False, indent=1), encoding="utf-8")
    use_exact_tokenizer(folder)


def _pre_tokenizer(name: str) -> dict[str, Any]:
    if name not in _PRE_TOKENIZERS:
        raise AssetError(
            f"GGUF pre-tokenizer {name!r} is not known (known: {sorted(_PRE_TOKENIZERS)}): the ids would "
            "differ from those the model was trained on. Use the model's own tokenizer.json instead"
        )
    return _PRE_TOKENIZERS[name]


def _repair_sentencepiece(reader: GGUFReader, spec: dict[str, Any]) -> None:
    vocab, model = spec["model"]["vocab"], spec["model"]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    scores = reader.fields["tokenizer.ggml.scores"].contents()

    def rank(merge: list[str]) -> tuple[float, int, int]:
        product = vocab[merge[0] + merge[1]]
        return (0.0 if kinds[product] == _USER_DEFINED else scores[product], len(merge[0]), len(merge[1]))

    in_vocabulary_order = sorted(model["merges"], key=lambda merge: vocab[merge[0] + merge[1]])
    model["merges"] = sorted(in_vocabulary_order, key=rank, reverse=True)
    spec["added_tokens"] = _added_tokens(spec, kinds)


def _added_tokens(spec: dict[str, Any], kinds: list[int]) -> list[dict[str, Any]]:
    """The pieces matched whole before any merge, in id order, with the original's idea of what is control."""
    tokens = {token["id"]: dict(token) for token in spec["added_tokens"]}
    for piece, index in spec["model"]["vocab"].items():
        if kinds[index] == _USER_DEFINED and index not in tokens:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
            tokens[index] = {"id": index, "content": piece} | flags
    for token in tokens.values():
        if _RESERVED.fullmatch(token["content"]):
            token["special"] = False
        elif _IMAGE_BORDER.fullmatch(token["content"]):
            token["special"] = True
    return [tokens[index] for index in sorted(tokens)]
