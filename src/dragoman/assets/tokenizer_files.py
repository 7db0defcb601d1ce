"""What a fetched tokenizer folder must say so that every loader gives the ids of its `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path


def use_exact_tokenizer(folder: Path) -> None:
    """Make `AutoTokenizer` load `tokenizer.json` as it stands, for texts of any length.

    A model-specific class rebuilds the tokenizer from the vocabulary and may give other ids (GPT-4o, Llama
    2); cleaning up blanks before punctuation on decoding would change the text; stored padding and
    truncation (MiniLM: to 128 tokens) would add and lose tokens. What remains of how the folder was loaded
    (`is_local`, ...) is no property of the tokenizer and is dropped.
    """
    tokenizer = folder / "tokenizer.json"
    spec = json.loads(tokenizer.read_text(encoding="utf-8"))
    if spec.get("padding") or spec.get("truncation"):
        spec |= {"padding": None, "truncation": None}
        tokenizer.write_text(json.dumps(spec, ensure_ascii=False, indent=1), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "backend", "name_or_path"):
        config.pop(key, None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
