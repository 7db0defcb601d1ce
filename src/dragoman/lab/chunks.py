"""Teacher log-probs and alignments of every path of a world, made by the very code that training uses."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dragoman.alignment import align
from dragoman.lab.paths import Paths, Prefix
from dragoman.types import Alignment, Event, TokenText


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherModel:
    """The teacher as a token model: its law of texts, written canonically in its own tokens."""

    texts: tuple[TokenText, ...]
    """Every text with a stop at its end."""
    logp: tuple[Float64[np.ndarray, " _"], ...]
    mass: dict[Prefix, float]

    def next_law(self, prefix: Prefix) -> dict[int, float]:
        """The law of the token behind a canonical prefix."""
        total = self.mass[prefix]
        return {token: self.mass[(*prefix, token)] / total for token in self._children[prefix]}

    @cached_property
    def _children(self) -> dict[Prefix, list[int]]:
        found: dict[Prefix, list[int]] = defaultdict(list)
        for prefix in self.mass:
            if prefix:
                found[prefix[:-1]].append(prefix[-1])
        return found


def teacher_model(paths: Paths) -> TeacherModel:
    """The exact token model of a world's teacher."""
    world = paths.world
    stop = min(world.teacher.stop_ids)
    texts = tuple(
        world.teacher.view([*world.teacher.encode(text).ids.tolist(), stop]) for text in world.texts
    )
    mass: dict[Prefix, float] = defaultdict(float)
    for text, probability in zip(texts, world.teacher_law, strict=True):
        ids = tuple(text.ids.tolist())
        for size in range(len(ids) + 1):
            mass[ids[:size]] += float(probability)
    logp = []
    for text in texts:
        ids = tuple(text.ids.tolist())
        masses = np.log([mass[ids[:size]] for size in range(len(ids) + 1)])
        logp.append(np.diff(masses))
    return TeacherModel(texts=texts, logp=tuple(logp), mass=dict(mass))


@dataclass(frozen=True, kw_only=True, eq=False)
class PathChunks:
    """All paths as one long response, and its alignment: chunk c of it is on one path, as stops are chunks
    of their own. Token n is in chunk `chunk_of[n]`; path p has the chunks
    `path_bounds[p]:path_bounds[p + 1]`.
    """

    paths: Paths
    teacher: TeacherModel
    text: TokenText
    alignment: Alignment
    path_bounds: Int64[np.ndarray, " P_plus_1"]
    teacher_sum: Float64[np.ndarray, " C"]
    is_odd: Bool[np.ndarray, " C"]
    """Chunks in which the student's own tokenizer would have written otherwise."""

    @property
    def chunk_of(self) -> Int64[np.ndarray, " N"]:
        """The chunk of every token."""
        return self.alignment.chunk_of

    @cached_property
    def num_student(self) -> Int64[np.ndarray, " C"]:
        """Student tokens of every chunk."""
        return np.diff(self.alignment.student_bounds)

    @cached_property
    def num_teacher(self) -> Int64[np.ndarray, " C"]:
        """Teacher tokens of every chunk."""
        return np.diff(self.alignment.teacher_bounds)

    def student_of(self, path: int) -> TokenText:
        """One path as a response."""
        first, last = self.paths.bounds[path : path + 2].tolist()
        bounds = self.text.bounds[first : last + 1]
        return TokenText(
            ids=self.text.ids[first:last],
            data=self.paths.world.texts[int(self.paths.text_of[path])],
            bounds=bounds - bounds[0],
            event=self.text.event[first:last],
            canonical=self.text.canonical[first:last],
        )

    def alignment_of(self, path: int) -> Alignment:
        """The alignment of one path with the teacher's tokens of its text."""
        first, last = self.path_bounds[path : path + 2].tolist()
        student = self.alignment.student_bounds[first : last + 1]
        teacher = self.alignment.teacher_bounds[first : last + 1]
        return Alignment(
            student_bounds=student - student[0],
            teacher_bounds=teacher - teacher[0],
            kind=self.alignment.kind[first:last],
        )


def path_chunks(paths: Paths, teacher: TeacherModel) -> PathChunks:
    """Align every path with the teacher's tokens of its text, in one go."""
    text = all_paths(paths)
    texts = paths.text_of.tolist()
    written = _joined([teacher.texts[index] for index in texts])
    alignment = align(text, written)
    teacher_sum = np.add.reduceat(
        np.concatenate([teacher.logp[index] for index in texts]), alignment.teacher_bounds[:-1]
    )
    odd = np.bincount(alignment.chunk_of, ~text.canonical, alignment.num_chunks) > 0
    return PathChunks(
        paths=paths,
        teacher=teacher,
        text=text,
        alignment=alignment,
        path_bounds=np.searchsorted(alignment.student_bounds, paths.bounds),
        teacher_sum=teacher_sum,
        is_odd=odd,
    )


def all_paths(paths: Paths) -> TokenText:
    """All paths, one behind the other, as one text with many stops: what `Tokenization.view` would say.

    A token is canonical if the student's tokenisation of its text has a token with the same borders.
    """
    world = paths.world
    ids = paths.edge_token[paths.edge]
    vocabulary = world.student.vocabulary_bytes()
    bounds = np.concatenate([[0], np.cumsum(np.array([len(data) for data in vocabulary])[ids])])
    first = np.repeat(bounds[paths.bounds[:-1]], np.diff(paths.bounds))
    text_of = paths.text_of[paths.path_of]
    most = max(map(len, world.texts)) + 1
    place = (text_of * most + bounds[:-1] - first) * most + bounds[1:] - first
    event = np.zeros(len(ids), np.uint8)
    event[paths.bounds[1:] - 1] = Event.STOP
    return TokenText(
        ids=ids,
        data=b"".join([world.texts[index] for index in paths.text_of.tolist()]),
        bounds=bounds,
        event=event,
        canonical=np.isin(place, place[paths.is_canonical[paths.path_of]]),
    )


def _joined(texts: list[TokenText]) -> TokenText:
    """Texts one behind the other."""
    sizes = [len(text.data) for text in texts]
    starts = np.cumsum([0, *sizes[:-1]])
    bounds = [text.bounds[:-1] + start for text, start in zip(texts, starts, strict=True)]
    return TokenText(
        ids=np.concatenate([text.ids for text in texts]),
        data=b"".join([text.data for text in texts]),
        bounds=np.append(np.concatenate(bounds), sum(sizes)),
        event=np.concatenate([text.event for text in texts]),
        canonical=np.concatenate([text.canonical for text in texts]),
    )
