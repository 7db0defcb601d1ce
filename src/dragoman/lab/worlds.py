"""Enumerable worlds: finitely many texts, the teacher's law of them, the student's first law, two tokenizers.

Everything else in the lab follows from these four. All parameters are explicit, so that a claim can be put
to settings that were not used to find it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dragoman.errors import UsageError
from dragoman.lab.tokenizers import Pieces, train_tokenizer
from dragoman.text import Tokenization

START_KL = 0.45
"""Nats of KL(student || teacher) over texts before training; the student's first law is drawn to have it."""


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """What a world is made of. `size` is the number of words (lexicon, context) or of texts kept."""

    kind: str = "lexicon"
    seed: int = 0
    teacher_merges: int = 250
    student_merges: int = 80
    size: int | None = None
    start_kl: float = START_KL

    @property
    def name(self) -> str:
        """Short name, teacher's merges before the student's."""
        return f"{self.kind}-{self.teacher_merges}-{self.student_merges}-s{self.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Texts with probabilities; both laws are positive on every text and sum to 1."""

    settings: WorldSettings
    texts: tuple[bytes, ...]
    teacher_law: Float64[np.ndarray, " X"]
    student_law: Float64[np.ndarray, " X"]
    teacher: Tokenization
    student: Tokenization


Texts = tuple[list[bytes], Float64[np.ndarray, " X"]]


def make_world(settings: WorldSettings) -> World:
    """Build a world; the same settings always give the same one.

    Raises UsageError for a kind that is not known, and for merges that differ where there is one tokenizer.
    """
    if settings.kind not in KINDS:
        raise UsageError(f"got the world {settings.kind!r}, expected one of {', '.join(KINDS)}")
    kind = KINDS[settings.kind]
    if kind.same_tokenizer and settings.teacher_merges != settings.student_merges:
        raise UsageError(
            f"got {settings.teacher_merges} merges for the teacher and {settings.student_merges} for the "
            f"student, but in the world {settings.kind!r} both have one tokenizer; give both the same number"
        )
    rng = np.random.default_rng([settings.seed, kind.stream])
    texts, law = kind.texts(rng, settings.size or kind.size)
    # The tokenizers are trained on other mixtures of the texts than the one the teacher speaks.
    tilts = [np.exp(rng.normal(0.0, 0.7, len(texts))) for _ in range(2)]
    coarser, finer = kind.pieces
    swapped = settings.student_merges > settings.teacher_merges
    teacher = train_tokenizer(
        "lab-teacher",
        texts,
        law * tilts[0],
        merges=settings.teacher_merges,
        pieces=finer if swapped else coarser,
    )
    student = teacher
    if not kind.same_tokenizer:
        student = train_tokenizer(
            "lab-student",
            texts,
            np.sqrt(law) * tilts[1],
            merges=settings.student_merges,
            pieces=coarser if swapped else finer,
        )
    return World(
        settings=settings,
        texts=tuple(texts),
        teacher_law=law,
        student_law=_tilted(law, rng.normal(size=len(texts)), settings.start_kl),
        teacher=teacher,
        student=student,
    )


def _tilted(law: np.ndarray, noise: np.ndarray, target: float) -> Float64[np.ndarray, " X"]:
    """The law `law * exp(s * noise)`, normalised, whose KL from `law` is `target` nats (s by bisection)."""

    def tilt(scale: float) -> np.ndarray:
        logits = np.log(law) + scale * noise
        weights: np.ndarray = np.exp(logits - logits.max())
        weights /= weights.sum()
        return weights

    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        other = tilt(middle)
        if float((other * np.log(other / law)).sum()) < target:
            low = middle
        else:
            high = middle
    return tilt((low + high) / 2)


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


def _lexicon(rng: np.random.Generator, size: int) -> Texts:
    return _words(rng, size), _zipf(rng, size)


def _context(rng: np.random.Generator, size: int) -> Texts:
    """Two words of which the second depends on the first."""
    words = _words(rng, size, most_syllables=2)
    first = _zipf(rng, size)
    joint = first[:, None] * np.stack([_zipf(rng, size) for _ in range(size)])
    return [a + b for a in words for b in words], joint.ravel()


def _markov(rng: np.random.Generator, size: int) -> Texts:
    """Strings over three letters by a Markov chain that may stop after each letter; the likeliest stay."""
    letters = "abc"
    start = rng.dirichlet(np.full(3, 2.0))
    move = rng.dirichlet(np.full(3, 0.7), size=3) * 0.85
    found: list[tuple[float, str]] = []
    for length in range(2, 8):
        for text in itertools.product(range(3), repeat=length):
            mass = start[text[0]] * 0.15
            for a, b in itertools.pairwise(text):
                mass *= move[a, b]
            found.append((float(mass), "".join(letters[i] for i in text)))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    kept = found[:size]
    masses = np.array([mass for mass, _ in kept]) + 1e-5
    return [text.encode() for _, text in kept], masses / masses.sum()


def _arithmetic(rng: np.random.Generator, size: int) -> Texts:
    """Sums `a+b=c`; small numbers are likelier, and some results are off by a little."""
    found: dict[str, float] = {}
    while len(found) < size:
        a, b = (int(10 ** rng.uniform(0, 2.4)) for _ in range(2))
        slip = int(rng.choice([0, 0, 0, 0, 1, 10]))
        text = f"{a}+{b}={a + b + slip}"
        found.setdefault(text, float(np.exp(rng.normal(0.0, 1.0)) / (a + b) ** 0.5 * (0.2 if slip else 1.0)))
    masses = np.array(list(found.values()))
    return [text.encode() for text in found], masses / masses.sum()


def _indentation(rng: np.random.Generator, size: int) -> Texts:
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


def _multibyte(rng: np.random.Generator, size: int) -> Texts:
    """Short strings of characters of one to four bytes, some with a common first byte."""
    letters = ["a", "é", "è", "ж", "漢", "字", "🙂", "🙃"]
    move = rng.dirichlet(np.full(len(letters), 0.5), size=len(letters) + 1)
    found: list[tuple[float, str]] = []
    for length in range(1, 5):
        for text in itertools.product(range(len(letters)), repeat=length):
            mass, last = 0.7 if length < 4 else 1.0, len(letters)
            for index in text:
                mass *= move[last, index] * 0.6
                last = index
            found.append((mass, "".join(letters[i] for i in text)))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    kept = found[:size]
    masses = np.array([mass for mass, _ in kept]) + 1e-5
    return [text.encode() for _, text in kept], masses / masses.sum()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of worlds. `pieces` are those of the side with more merges, then of the other; `merges` are
    the usual settings, teacher's first."""

    texts: Callable[[np.random.Generator, int], Texts]
    size: int
    stream: int
    """Which random numbers it is made of."""
    pieces: tuple[Pieces, Pieces]
    merges: tuple[tuple[int, int], ...]
    same_tokenizer: bool = False
    summary: str


_WORDS_ONLY, _ANY = (Pieces.WORDS, Pieces.WORDS), (Pieces.WHOLE, Pieces.WHOLE)
KINDS: Mapping[str, Kind] = {
    "lexicon": Kind(
        texts=_lexicon,
        size=600,
        stream=3,
        pieces=_WORDS_ONLY,
        merges=((250, 80), (80, 200), (150, 150)),
        summary="single words with Zipf's frequencies, a blank before each",
    ),
    "context": Kind(
        texts=_context,
        size=24,
        stream=1,
        pieces=_WORDS_ONLY,
        merges=((250, 80), (80, 200)),
        summary="two words of which the second depends on the first",
    ),
    "markov": Kind(
        texts=_markov,
        size=400,
        stream=4,
        pieces=_ANY,
        merges=((60, 20), (20, 60)),
        summary="strings over three letters by a Markov chain, merges anywhere: no border is hard",
    ),
    "arithmetic": Kind(
        texts=_arithmetic,
        size=400,
        stream=0,
        pieces=(Pieces.TRIPLES, Pieces.DIGITS),
        merges=((100, 40), (40, 100)),
        summary="sums with their results; one side merges up to three digits, the other none",
    ),
    "indentation": Kind(
        texts=_indentation,
        size=100,
        stream=2,
        pieces=(Pieces.WHOLE, Pieces.WORDS),
        merges=((80, 30), (30, 80)),
        summary="two lines of code, the second indented by 0 to 8 blanks",
    ),
    "multibyte": Kind(
        texts=_multibyte,
        size=400,
        stream=5,
        pieces=_ANY,
        merges=((60, 20), (20, 60)),
        summary="characters of one to four bytes, which tokens may split",
    ),
    "same": Kind(
        texts=_lexicon,
        size=600,
        stream=3,
        pieces=_WORDS_ONLY,
        merges=((150, 150),),
        same_tokenizer=True,
        summary="a lexicon whose student has the teacher's tokenizer",
    ),
}


def quick_size(kind: str) -> int:
    """The size of a world where quick figures are wanted: a tenth of the usual one, and 6 at least."""
    return max(KINDS[kind].size // 10, 6)
