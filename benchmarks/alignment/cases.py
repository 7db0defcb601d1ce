"""What is aligned: responses of a student as token ids, from texts, odd segmentations and real rollouts."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

DATA = Path(__file__).with_name("data")
ODD = "odd segmentation"
LONGEST = 24
"""Bytes of the longest token tried in an odd segmentation."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One response: `ids` of the student that spell `data`."""

    name: str
    category: str
    ids: list[int]
    data: bytes


def load(file: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file whose bytes are in `text` or, where they are no text, in `base64`."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["data"] = row["text"].encode() if "text" in row else base64.b64decode(row["base64"])
    return rows


def responses(
    encode: Callable[[bytes], list[int]],
    spell: Callable[[int], bytes],
    tokens: Mapping[bytes, list[int]],
    seed: int,
) -> Iterator[Response]:
    """Every text in the student's own ids and, one of each category, in odd ids.

    The response is what the ids spell, which for a tokenizer that normalises may not be the text.
    """
    seen: set[str] = set()
    for row in load(DATA / "texts.jsonl"):
        ids = encode(row["data"])
        data = b"".join(map(spell, ids))
        yield Response(name=row["id"], category=row["category"], ids=ids, data=data)
        if row["category"] not in seen:
            seen.add(row["category"])
            rng = random.Random(f"{seed}/{row['id']}")
            odd = segment(data, tokens, rng)
            yield Response(name=f"{row['id']}/odd", category=ODD, ids=odd, data=data)


def rollouts(spell: Callable[[int], bytes]) -> Iterator[Response]:
    """The recorded rollouts, with the ids as they were sampled."""
    for row in load(DATA / "rollouts.jsonl"):
        data = b"".join(map(spell, row["ids"]))
        if data != row["data"]:
            raise SystemExit(f"the ids of rollout {row['id']!r} do not spell the recorded bytes")
        yield Response(name=row["id"], category="rollout", ids=row["ids"], data=data)


def segment(data: bytes, tokens: Mapping[bytes, list[int]], rng: random.Random) -> list[int]:
    """Random tokens that spell `data`: each the token of a random length among those that fit here.

    Raises KeyError if the vocabulary has no token for a byte.
    """
    ids = []
    at = 0
    while at < len(data):
        fitting = [
            size
            for size in range(1, LONGEST + 1)
            if data[at : at + size] in tokens and at + size <= len(data)
        ]
        if not fitting:
            raise KeyError(data[at : at + 1])
        size = rng.choice(fitting)
        ids.append(rng.choice(tokens[data[at : at + size]]))
        at += size
    return ids


def plain_tokenizer(folder: Path) -> Tokenizer:
    """A tokenizer that reads text within a text: nothing added around it, no control token in it."""
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    state["post_processor"] = None
    normaliser = state["normalizer"] or {}
    if "normalizers" in normaliser:
        normaliser["normalizers"] = [part for part in normaliser["normalizers"] if part["type"] != "Prepend"]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.encode_special_tokens = True
    return tokenizer


def own_ids(tokenizer: Tokenizer, data: bytes) -> list[int] | None:
    """What the tokenizer makes of a response; None if it is no UTF-8."""
    try:
        ids: list[int] = tokenizer.encode(data.decode("utf-8"), add_special_tokens=False).ids
    except UnicodeDecodeError:
        return None
    return ids


def speed_response() -> bytes:
    """A long response: the texts that no tokenizer here has trouble with, one after another."""
    rows = load(DATA / "texts.jsonl")
    return b"\n\n".join(row["data"] for row in rows if row["category"] in PLAIN)


PLAIN = ("prose", "maths", "code", "json", "markup", "chinese", "korean", "cyrillic", "think", "mixed")
