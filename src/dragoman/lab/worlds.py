"""Enumerable worlds: finitely many texts, the teacher's law of them, the student's first law, two tokenizers.

Everything else in the lab follows from these four. All parameters are explicit, so that a claim can be put
to settings that were not used to find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dragoman.errors import UsageError
from dragoman.lab import texts
from dragoman.lab.texts import Texts
from dragoman.lab.tokenizers import Pieces, train_tokenizer
from dragoman.text import Tokenization

_MOST_TILT = 8.0
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
        """Short name, teacher's merges before the student's; with the size where it is not the usual one."""
        name = f"{self.kind}-{self.teacher_merges}-{self.student_merges}-s{self.seed}"
        is_usual = self.size is None or (self.kind in KINDS and self.size == KINDS[self.kind].size)
        return name if is_usual else f"{name}-n{self.size}"


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Texts with probabilities; both laws are positive on every text and sum to 1."""

    settings: WorldSettings
    texts: tuple[bytes, ...]
    teacher_law: Float64[np.ndarray, " X"]
    student_law: Float64[np.ndarray, " X"]
    teacher: Tokenization
    student: Tokenization


def make_world(settings: WorldSettings) -> World:
    """Build a world; the same settings always give the same one.

    Raises UsageError for a kind that is not known, for merges that differ where there is one tokenizer, for
    more texts than there are and for a distance that the student's first law cannot have.
    """
    if settings.kind not in KINDS:
        raise UsageError(f"got the world {settings.kind!r}, expected one of {', '.join(KINDS)}")
    kind = KINDS[settings.kind]
    if kind.same_tokenizer and settings.teacher_merges != settings.student_merges:
        raise UsageError(
            f"got {settings.teacher_merges} merges for the teacher and {settings.student_merges} for the "
            f"student, but in the world {settings.kind!r} both have one tokenizer; give both the same number"
        )
    size = kind.size if settings.size is None else settings.size
    if kind.most is not None and size > kind.most:
        raise UsageError(
            f"got a size of {size}, but the world {settings.kind!r} has {kind.most} texts; give that or less"
        )
    rng = np.random.default_rng([settings.seed, kind.stream])
    written, law = kind.texts(rng, size)
    # The tokenizers are trained on other mixtures of the texts than the one the teacher speaks.
    tilts = [np.exp(rng.normal(0.0, 0.7, len(written))) for _ in range(2)]
    coarser, finer = kind.pieces
    swapped = settings.student_merges > settings.teacher_merges
    teacher = train_tokenizer(
        "lab-teacher",
        written,
        law * tilts[0],
        merges=settings.teacher_merges,
        pieces=finer if swapped else coarser,
    )
    student = teacher
    if not kind.same_tokenizer:
        student = train_tokenizer(
            "lab-student",
            written,
            np.sqrt(law) * tilts[1],
            merges=settings.student_merges,
            pieces=coarser if swapped else finer,
        )
    return World(
        settings=settings,
        texts=tuple(written),
        teacher_law=law,
        student_law=_tilted(law, rng.normal(size=len(written)), settings.start_kl),
        teacher=teacher,
        student=student,
    )


def _tilted(law: np.ndarray, noise: np.ndarray, target: float) -> Float64[np.ndarray, " X"]:
    """The law `law * exp(s * noise)`, normalised, whose KL from `law` is `target` nats (s by bisection).

    Raises UsageError for a target that no s up to `_MOST_TILT` reaches; the KL grows with s.
    """

    def tilt(scale: float) -> np.ndarray:
        logits = np.log(law) + scale * noise
        weights: np.ndarray = np.exp(logits - logits.max())
        weights /= weights.sum()
        return weights

    def distance(scale: float) -> float:
        other = tilt(scale)
        return float((other * np.log(other / law)).sum())

    low, high = 0.0, _MOST_TILT
    if target > (most := distance(high)):
        raise UsageError(
            f"got a start KL of {target:g} nats, but in this world the student's first law can be at most "
            f"{math.floor(most * 1000) / 1000:.3f} nats from the teacher's; give that or less"
        )
    for _ in range(60):
        middle = (low + high) / 2
        if distance(middle) < target:
            low = middle
        else:
            high = middle
    return tilt((low + high) / 2)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of worlds. `pieces` are those of the side with more merges, then of the other; `merges` are
    the usual settings, teacher's first; `most` is how many texts there are, None for any number."""

    texts: Callable[[np.random.Generator, int], Texts]
    size: int
    most: int | None = None
    stream: int
    """Which random numbers it is made of."""
    pieces: tuple[Pieces, Pieces]
    merges: tuple[tuple[int, int], ...]
    same_tokenizer: bool = False
    summary: str


_WORDS_ONLY, _ANY = (Pieces.WORDS, Pieces.WORDS), (Pieces.WHOLE, Pieces.WHOLE)
KINDS: Mapping[str, Kind] = {
    "lexicon": Kind(
        texts=texts.lexicon,
        size=600,
        stream=3,
        pieces=_WORDS_ONLY,
        merges=((250, 80), (80, 200), (150, 150)),
        summary="single words with Zipf's frequencies, a blank before each",
    ),
    "context": Kind(
        texts=texts.context,
        size=24,
        stream=1,
        pieces=_WORDS_ONLY,
        merges=((60, 30), (30, 60)),
        summary="two words of which the second depends on the first",
    ),
    "markov": Kind(
        texts=texts.markov,
        size=400,
        most=3276,
        stream=4,
        pieces=_ANY,
        merges=((20, 8), (8, 20)),
        summary="strings over three letters by a Markov chain, merges anywhere: no border is hard",
    ),
    "arithmetic": Kind(
        texts=texts.arithmetic,
        size=400,
        most=189_003,
        stream=0,
        pieces=(Pieces.TRIPLES, Pieces.DIGITS),
        merges=((60, 10), (10, 60)),
        summary="sums with their results; one side merges up to three digits, the other none",
    ),
    "indentation": Kind(
        texts=texts.indentation,
        size=100,
        most=108,
        stream=2,
        pieces=(Pieces.WHOLE, Pieces.WORDS),
        merges=((60, 20), (20, 60)),
        summary="two lines of code, the second indented by 0 to 8 blanks",
    ),
    "multibyte": Kind(
        texts=texts.multibyte,
        size=400,
        most=4680,
        stream=5,
        pieces=_ANY,
        merges=((40, 16), (16, 40)),
        summary="characters of one to four bytes, which tokens may split",
    ),
    "same": Kind(
        texts=texts.lexicon,
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
