"""Make the quickstart's prompts: openings of sentences from the standard library's docstrings.

Writes `docs-train.jsonl` and `docs-heldout.jsonl` with one `{"id", "prompt"}` a line. A prompt is the
first four to nine words of an English sentence, cut at a word border without a trailing blank, so that
a base model and an instruct model can both continue it. No top-level module feeds both files, and no
two prompts, read without case and commas, begin with the same four words.

The texts depend on the interpreter's own library, so CPython 3.11 is required; its patch release is
named in `recipes/data/README.md`. Only the standard library is used, and no module is imported.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Tests and vendored code; and what some systems package apart from the interpreter.
SKIPPED = {
    *("test", "tests", "site-packages", "ensurepip", "pydoc_data", "__phello__"),
    *("distutils", "idlelib", "lib2to3", "tkinter", "turtledemo"),
}
FEWEST_WORDS, MOST_WORDS, FEWEST_LEFT = 4, 9, 3
MOST_PER_MODULE = 14
MOST_PER_OPENING = 6
FEWEST_MODULES_PER_WORD = 4

PLAIN_WORD = re.compile(r"(?:[A-Za-z][a-z]+(?:[-'][a-z]+)*|[A-Z]{2,5}|[AaI]),?")
SENTENCE_END = re.compile(r"(?<=[a-z)\"'][.!?])\s+(?=[A-Z])")
LIST_ITEM = re.compile(r"\s*(?:[-*+•o]\s|\d+[.)]\s|[A-Za-z_]+\s*(?:--|:\s|=))")
NOT_PROSE = re.compile(r">>>|::|\.\. |^[=~\-*#+]{3,}|\\|\s{3,}", re.MULTILINE)
LEGAL = re.compile(r"copyright|licen[sc]e|warrant|all rights", re.IGNORECASE)
LABEL = re.compile(r"(?:Note|Notes|Warning|Usage|Example|Examples|Args|Returns|Raises|See also|Author)\b:?")
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been but by can does for from has have if in into is it its not of on or
        should such than that the their them then there these they this to used was when where which will
        with you""",
    )
)


@dataclass(frozen=True)
class Opening:
    """The words a sentence begins with and where the sentence stands."""

    key: str
    module: str
    words: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """Write both files; the same seed and the same interpreter give the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "recipes" / "data")
    parser.add_argument("--train", type=int, default=512, help="number of training prompts")
    parser.add_argument("--heldout", type=int, default=96, help="number of held-out prompts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if sys.version_info[:2] != (3, 11):
        parser.error(
            f"needs CPython 3.11, whose docstrings the prompts are; this is {sys.version.split()[0]}"
        )
    library = {opening.key: opening for opening in read_library()}
    openings = common_words_only([library[key] for key in sorted(library)])
    train, heldout = split(openings, args.train, args.heldout, random.Random(args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("docs-train.jsonl", train), ("docs-heldout.jsonl", heldout)):
        lines = (json.dumps({"id": row.key, "prompt": " ".join(row.words)}) + "\n" for row in rows)
        (args.out / name).write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(rows)} prompts from {len({row.module for row in rows})} top-level modules")
    return 0


def read_library() -> Iterator[Opening]:
    """Every usable opening of the standard library, module by module."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.isdisjoint(parts) and not any("-" in part for part in parts):
            dotted = ".".join(part for part in parts if part != "__init__")
            for where, doc in docstrings(ast.parse(path.read_bytes()), dotted):
                for number, sentence in enumerate(sentences(doc)):
                    words = opening_words(sentence)
                    if words:
                        yield Opening(f"{where}:{number}", parts[0], words)


def docstrings(node: ast.AST, dotted: str) -> Iterator[tuple[str, str]]:
    """The docstrings of a module and of everything defined in it, with their dotted names."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        doc = ast.get_docstring(node)
        if doc:
            yield dotted, doc
        for child in node.body:
            yield from docstrings(child, f"{dotted}.{getattr(child, 'name', '')}")


def sentences(doc: str) -> Iterator[str]:
    """The complete sentences of a docstring's prose paragraphs; lists, code and headings are passed over."""
    for paragraph in re.split(r"\n\s*\n", doc):
        lines = paragraph.split("\n")
        indented = len(lines) > 1 and any(line.startswith(" ") for line in lines)
        if indented or NOT_PROSE.search(paragraph) or LEGAL.search(paragraph):
            continue
        if any(LIST_ITEM.match(line) for line in lines):
            continue
        for sentence in SENTENCE_END.split(" ".join(line.strip() for line in lines)):
            if sentence.endswith((".", "!", "?")) and not LABEL.match(sentence):
                yield sentence


def opening_words(sentence: str) -> tuple[str, ...]:
    """The longest run of plain words a prompt may use, or nothing if the sentence is unfit."""
    words = sentence.split()
    usable: list[str] = []
    for word in words[: min(MOST_WORDS, len(words) - FEWEST_LEFT)]:
        if not PLAIN_WORD.fullmatch(word):
            break
        usable.append(word)
    starts_a_sentence = usable and (usable[0].istitle() or usable[0] == "A")
    return tuple(usable) if starts_a_sentence and len(usable) >= FEWEST_WORDS else ()


def common_words_only(openings: list[Opening]) -> list[Opening]:
    """Cut each opening before its first rare word: names, misspellings and jargon occur in few modules."""
    modules: defaultdict[str, set[str]] = defaultdict(set)
    for opening in openings:
        for word in opening.words:
            modules[bare(word)].add(opening.module)
    kept = []
    for opening in openings:
        rare = (
            i for i, word in enumerate(opening.words) if len(modules[bare(word)]) < FEWEST_MODULES_PER_WORD
        )
        words = opening.words[: next(rare, len(opening.words))]
        if len(words) >= FEWEST_WORDS:
            kept.append(Opening(opening.key, opening.module, words))
    return kept


def split(
    openings: list[Opening], num_train: int, num_heldout: int, rng: random.Random
) -> tuple[list[Opening], list[Opening]]:
    """Give whole modules to the held-out file until it is full, and the others to the training file."""
    names = sorted({opening.module for opening in openings})
    rng.shuffle(names)
    candidates = [cut(opening, rng) for opening in rng.sample(openings, len(openings))]
    chosen = spread(filter(natural, candidates))
    sizes = Counter(opening.module for opening in chosen)
    heldout_modules: set[str] = set()
    while names and sum(sizes[name] for name in heldout_modules) < num_heldout:
        heldout_modules.add(names.pop())
    heldout = [opening for opening in chosen if opening.module in heldout_modules]
    train = [opening for opening in chosen if opening.module not in heldout_modules]
    if len(train) < num_train or len(heldout) < num_heldout:
        raise SystemExit(
            f"{num_train} training and {num_heldout} held-out prompts are wanted, but only {len(chosen)} "
            f"pass the filters ({len(train)} and {len(heldout)} after the split by module); ask for fewer"
        )
    return train[:num_train], heldout[:num_heldout]


def cut(opening: Opening, rng: random.Random) -> Opening:
    """Choose how many words the prompt has; a comma at its end belongs to the continuation."""
    num_words = min(len(opening.words), rng.randint(FEWEST_WORDS, MOST_WORDS))
    *first, last = opening.words[:num_words]
    return Opening(opening.key, opening.module, (*first, last.rstrip(",")))


def natural(opening: Opening) -> bool:
    """Whether the words read as English: at least two function words, and at most one word repeated."""
    bares = [bare(word) for word in opening.words]
    return sum(word in FUNCTION_WORDS for word in bares) >= 2 and len(set(bares)) > len(bares) - 2


def spread(openings: Iterable[Opening]) -> list[Opening]:
    """Let no two share four first words, and bound what one module or one pair of first words gives."""
    seen: set[tuple[str, ...]] = set()
    per_module: Counter[str] = Counter()
    per_opening: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for opening in openings:
        bares = tuple(bare(word) for word in opening.words)
        full = per_module[opening.module] >= MOST_PER_MODULE or per_opening[bares[:2]] >= MOST_PER_OPENING
        if full or bares[:FEWEST_WORDS] in seen:
            continue
        seen.add(bares[:FEWEST_WORDS])
        per_module[opening.module] += 1
        per_opening[bares[:2]] += 1
        chosen.append(opening)
    return chosen


def bare(word: str) -> str:
    """A word without case and closing punctuation, as prompts are compared."""
    return word.lower().rstrip(",")


if __name__ == "__main__":
    sys.exit(main())
