"""The texts of worlds and the teacher's law of them, by family."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

Texts = tuple[list[bytes], Float64[np.ndarray, " X"]]
"""Texts, all different, and their probabilities."""


def _zipf(rng: np.random.Generator, size: int) -> np.ndarray:
    ranks = rng.permutation(size) + 2.0
    weights: np.ndarray = ranks**-1.1 * np.exp(rng.normal(0.0, 0.3, size))
    weights /= weights.sum()
    return weights


def _words(rng: np.random.Generator, size: int, *, most_syllables: int = 3) -> list[bytes]:
    """Different pronounceable words, a blank before each."""
    onsets, vowels, codas = (
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t"],
        ["a", "e", "i", "o", "u"],
        ["", "", "", "n", "r", "s", "t"],
    )
    endings = ["", "", "", "s", "ed", "ing", "er"]
    found: dict[str, None] = {}
    while len(found) < size:
        number = int(rng.integers(1, most_syllables + 1))
        parts = [
            str(rng.choice(onsets[: 4 + 3 * number])) + str(rng.choice(vowels)) + str(rng.choice(codas))
            for _ in range(number)
        ]
        found.setdefault(" " + "".join(parts) + (str(rng.choice(endings)) if most_syllables > 1 else ""))
    return [word.encode() for word in found]


def lexicon(rng: np.random.Generator, size: int) -> Texts:
    return _words(rng, size), _zipf(rng, size)


def context(rng: np.random.Generator, size: int) -> Texts:
    """Two words of which the second depends on the first."""
    words = _words(rng, size, most_syllables=2)
    first = _zipf(rng, size)
    joint = first[:, None] * np.stack([_zipf(rng, size) for _ in range(size)])
    return [a + b for a in words for b in words], joint.ravel()


def markov(rng: np.random.Generator, size: int) -> Texts:
    """Strings over three letters by a Markov chain that may stop after each letter; the likeliest stay."""
    start = rng.dirichlet(np.full(3, 2.0))
    move = rng.dirichlet(np.full(3, 0.7), size=3) * 0.85
    return _chain("abc", start, move, dict.fromkeys(range(2, 8), 0.15), size)


def arithmetic(rng: np.random.Generator, size: int) -> Texts:
    """Sums `a+b=c`; small numbers are likelier, and some results are off by a little."""
    found: dict[str, float] = {}
    while len(found) < size:
        a, b = (int(10 ** rng.uniform(0, 2.4)) for _ in range(2))
        slip = int(rng.choice([0, 0, 0, 0, 1, 10]))
        text = f"{a}+{b}={a + b + slip}"
        found.setdefault(text, float(np.exp(rng.normal(0.0, 1.0)) / (a + b) ** 0.5 * (0.2 if slip else 1.0)))
    masses = np.array(list(found.values()))
    return [text.encode() for text in found], masses / masses.sum()


def indentation(rng: np.random.Generator, size: int) -> Texts:
    """Two short lines of code, the second indented by 0 to 8 blanks, mostly an even number of them."""
    heads, bodies = ["a:", "if b:", "c"], ["x", "y=1", "def", "xy"]
    found: dict[str, float] = {}
    levels = rng.dirichlet(np.full(5, 1.0), size=len(heads))
    for (h, head), width, body in itertools.product(enumerate(heads), range(9), bodies):
        mass = levels[h, width // 2] * (0.05 if width % 2 else 1.0)
        found[f"{head}\n{' ' * width}{body}"] = float(mass * np.exp(rng.normal(0.0, 0.5))) + 1e-4
    kept = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:size]
    masses = np.array([mass for _, mass in kept])
    return [text.encode() for text, _ in kept], masses / masses.sum()


def multibyte(rng: np.random.Generator, size: int) -> Texts:
    """Short strings of characters of one to four bytes, some with a common first byte."""
    letters = ["a", "é", "è", "ж", "漢", "字", "🙂", "🙃"]
    move = rng.dirichlet(np.full(len(letters), 0.5), size=len(letters) + 1) * 0.6
    return _chain(letters, move[-1], move[:-1], {1: 0.7, 2: 0.7, 3: 0.7, 4: 1.0}, size)


def _chain(
    letters: Sequence[str],
    start: Float64[np.ndarray, " A"],
    move: Float64[np.ndarray, "A A"],
    ends: Mapping[int, float],
    size: int,
) -> Texts:
    """The `size` likeliest strings of a Markov chain over A letters; `ends` has the lengths that there are
    and the probability of ending at each, up to a common factor."""
    found: list[tuple[float, str]] = []
    for length, end in ends.items():
        for text in itertools.product(range(len(letters)), repeat=length):
            mass = start[text[0]] * end
            for a, b in itertools.pairwise(text):
                mass *= move[a, b]
            found.append((float(mass), "".join(letters[i] for i in text)))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    kept = found[:size]
    masses = np.array([mass for mass, _ in kept]) + 1e-5
    return [text.encode() for _, text in kept], masses / masses.sum()
