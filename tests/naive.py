"""The aligner as its definition reads, and a judge for any alignment: what the property tests compare with.

A chunk is a minimal pair of token slices that spell the same bytes and start and end on byte offsets
where both sides have a boundary. Events have no width; one is matched to an event of the same kind at
the same byte place. Plain loops, quadratic, and written without sight of the aligner under test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np

from dragoman.types import Alignment, ChunkKind, Correspondence, Event, PairKind, TokenText

Chunk = tuple[int, int, int, int]
"""`(s0, s1, t0, t1)`: student tokens `s0:s1` meet teacher tokens `t0:t1`."""


def token_text(pieces: Iterable[bytes | Event]) -> TokenText:
    """Build a TokenText from what each token spells, or the event it is.

    >>> token_text([b"a", b"bc", Event.STOP]).bounds.tolist()
    [0, 1, 3, 3]
    """
    pieces = list(pieces)
    spelled = [b"" if isinstance(piece, Event) else piece for piece in pieces]
    return TokenText(
        ids=np.arange(len(pieces), dtype=np.int64),
        data=b"".join(spelled),
        bounds=np.cumsum([0, *map(len, spelled)], dtype=np.int64),
        event=np.array([piece if isinstance(piece, Event) else Event.NONE for piece in pieces], np.uint8),
        canonical=np.ones(len(pieces), bool),
    )


def naive_align(student: TokenText, teacher: TokenText) -> list[Chunk]:
    """All chunks of two token sequences that spell the same bytes, in order.

    Unmatched events are chunks with one empty side. Where several events stand at one place, as many as
    possible are matched in order, the earliest choice first.

    Raises:
        ValueError: the bytes differ, or a token that is no event spells none.
    """
    if student.data != teacher.data:
        raise ValueError("the naive aligner is defined for equal bytes only")
    if has_empty_text(student) or has_empty_text(teacher):
        raise ValueError("a token that is no event must spell at least one byte")
    chunks: list[Chunk] = []
    s = t = 0
    while s < len(student) or t < len(teacher):
        s_text, t_text = after_events(student, s), after_events(teacher, t)
        if s_text > s or t_text > t:
            chunks += event_chunks(student, teacher, (s, s_text, t, t_text))
            s, t = s_text, t_text
            continue
        s_end, t_end = next(
            (i, j)
            for i in range(s + 1, len(student) + 1)
            for j in range(t + 1, len(teacher) + 1)
            if spelled(student, s, i) == spelled(teacher, t, j)
        )
        chunks.append((s, s_end, t, t_end))
        s, t = s_end, t_end
    return chunks


def event_chunks(student: TokenText, teacher: TokenText, place: Chunk) -> Iterator[Chunk]:
    """The chunks of the events that stand at one byte place."""
    s, s_end, t, t_end = place
    for i, j in [*matched_events(student, teacher, place), (s_end, t_end)]:
        if s < i:
            yield s, i, t, t
        if t < j:
            yield i, i, t, j
        if i < s_end and j < t_end:
            yield i, i + 1, j, j + 1
        s, t = i + 1, j + 1


def matched_events(student: TokenText, teacher: TokenText, place: Chunk) -> list[tuple[int, int]]:
    """The longest in-order pairing of events of the same kind, found by trying all."""
    s, s_end, t, t_end = place
    for size in range(min(s_end - s, t_end - t), 0, -1):
        for ours in combinations(range(s, s_end), size):
            for theirs in combinations(range(t, t_end), size):
                if [student.event[i] for i in ours] == [teacher.event[j] for j in theirs]:
                    return list(zip(ours, theirs, strict=True))
    return []


def kind_of(student: TokenText, teacher: TokenText, chunk: Chunk) -> ChunkKind:
    """What the definition calls this pair of slices."""
    s0, s1, t0, t1 = chunk
    if t0 == t1:
        return ChunkKind.STUDENT_ONLY
    if s0 == s1:
        return ChunkKind.TEACHER_ONLY
    ours, theirs = student.event[s0:s1].tolist(), teacher.event[t0:t1].tolist()
    if any(ours) or any(theirs):
        return ChunkKind.EVENT if len(ours) == 1 and ours == theirs else ChunkKind.IMPURE
    if spelled(student, s0, s1) != spelled(teacher, t0, t1):
        return ChunkKind.IMPURE
    if s1 - s0 == 1:
        return ChunkKind.ONE_TO_ONE if t1 - t0 == 1 else ChunkKind.ONE_TO_MANY
    return ChunkKind.MANY_TO_ONE if t1 - t0 == 1 else ChunkKind.MANY_TO_MANY


def comparable_chunks(student: TokenText, teacher: TokenText, chunks: Iterable[Chunk]) -> list[Chunk]:
    """Those chunks in which both sides spell the same bytes, or are the same event."""
    return [chunk for chunk in chunks if kind_of(student, teacher, chunk) <= ChunkKind.EVENT]


def chunks_of(alignment: Alignment) -> list[Chunk]:
    """The chunks of an alignment as tuples."""
    s, t = alignment.student_bounds.tolist(), alignment.teacher_bounds.tolist()
    return list(zip(s[:-1], s[1:], t[:-1], t[1:], strict=True))


def check_alignment(student: TokenText, teacher: TokenText, alignment: Alignment) -> None:
    """Assert everything the definition demands of an alignment, whether or not the bytes are equal."""
    chunks = chunks_of(alignment)
    for bounds, side in ((alignment.student_bounds, student), (alignment.teacher_bounds, teacher)):
        assert bounds.dtype == np.int64
        assert bounds[0] == 0 and bounds[-1] == len(side), "chunks cover all tokens of both sides"
        assert (np.diff(bounds) >= 0).all(), "chunks are in order"
    assert alignment.kind.dtype == np.uint8
    for chunk, kind in zip(chunks, alignment.kind.tolist(), strict=True):
        s0, s1, t0, t1 = chunk
        assert s0 < s1 or t0 < t1, f"chunk {chunk} is empty"
        assert ChunkKind(kind) == kind_of(student, teacher, chunk), f"kind of chunk {chunk}"
        if kind < ChunkKind.EVENT:
            ours = {int(b - student.bounds[s0]) for b in student.bounds[s0 + 1 : s1]}
            theirs = {int(b - teacher.bounds[t0]) for b in teacher.bounds[t0 + 1 : t1]}
            assert not ours & theirs, f"chunk {chunk} can be divided after {min(ours & theirs)} bytes"
    check_coverage(student, teacher, alignment)


def check_coverage(student: TokenText, teacher: TokenText, alignment: Alignment) -> None:
    """Assert what coverage counts, and that with equal bytes no comparable chunk is missed."""
    chunks = chunks_of(alignment)
    found = comparable_chunks(student, teacher, chunks)
    covered = sum(s1 - s0 for s0, s1, _, _ in found)
    assert alignment.coverage == (covered / len(student) if len(student) else 1.0)
    owner = [c for c, (s0, s1, _, _) in enumerate(chunks) for _ in range(s0, s1)]
    assert alignment.chunk_of.tolist() == owner
    if student.data == teacher.data and not has_empty_text(student) and not has_empty_text(teacher):
        wanted = comparable_chunks(student, teacher, naive_align(student, teacher))
        assert text_chunks(student, found) == text_chunks(student, wanted)
        assert len(found) == len(wanted), "as many events are matched as can be"


def text_chunks(student: TokenText, chunks: Iterable[Chunk]) -> list[Chunk]:
    """Those of comparable chunks that are no events."""
    return [chunk for chunk in chunks if student.event[chunk[0]] == Event.NONE]


def spelled(text: TokenText, start: int, stop: int) -> bytes:
    """The bytes of a slice of tokens."""
    return text.data[text.bounds[start] : text.bounds[stop]]


def after_events(text: TokenText, start: int) -> int:
    """The first token at or behind `start` that is no event."""
    while start < len(text) and text.event[start] != Event.NONE:
        start += 1
    return start


def has_empty_text(text: TokenText) -> bool:
    """Whether some token is neither text nor an event."""
    return bool(((np.diff(text.bounds) == 0) & (text.event == Event.NONE)).any())


def paired_chunks(student: TokenText, teacher: TokenText, pairs: Correspondence) -> dict[Chunk, ChunkKind]:
    """The comparable chunks under a given correspondence: all of both slices has a counterpart in the other,
    and they cannot be divided into such slices. Tries all pairs of borders.
    """
    borders_s, borders_t = symbol_borders(student), symbol_borders(teacher)
    whole = [(i, j) for i, x in enumerate(borders_s) for j, y in enumerate(borders_t) if divides(pairs, x, y)]
    found: dict[Chunk, ChunkKind] = {}
    for s0, t0 in whole:
        for s1, t1 in sorted(whole):
            span = borders_s[s0], borders_s[s1], borders_t[t0], borders_t[t1]
            if s0 < s1 and t0 < t1 and (parts := parts_of(pairs, span)) is not None:
                found[(s0, s1, t0, t1)] = paired_kind(student, parts, (s0, s1, t0, t1))
                break
    return found


def symbol_borders(text: TokenText) -> list[int]:
    """Token borders counted in symbols: bytes, and events of one symbol each."""
    widths = [int(text.bounds[i + 1] - text.bounds[i]) or 1 for i in range(len(text))]
    return [sum(widths[:i]) for i in range(len(text) + 1)]


def divides(pairs: Correspondence, x: int, y: int) -> bool:
    """Whether what lies before the student's symbol x and the teacher's symbol y is paired within itself."""
    for (a, b, c, d), kind in zip(pairs.spans.tolist(), pairs.kind.tolist(), strict=True):
        if kind == PairKind.EXACT:
            if any((a + n < x) != (c + n < y) for n in range(b - a)):
                return False
        elif kind <= PairKind.MARKER and not ((b <= x and d <= y) or (a >= x and c >= y)):
            return False
    return True


def parts_of(pairs: Correspondence, span: Chunk) -> set[tuple[int, PairKind]] | None:
    """The student's symbols in a slice and how each is paired; None if a symbol of either side is not."""
    x0, x1, y0, y1 = span
    ours: set[tuple[int, PairKind]] = set()
    theirs: set[int] = set()
    for (a, b, c, d), kind in zip(pairs.spans.tolist(), pairs.kind.tolist(), strict=True):
        if kind <= PairKind.MARKER:
            ours |= {(n, PairKind(kind)) for n in range(max(a, x0), min(b, x1))}
            theirs |= set(range(max(c, y0), min(d, y1)))
    return ours if len(ours) == x1 - x0 and len(theirs) == y1 - y0 else None


def paired_kind(student: TokenText, parts: set[tuple[int, PairKind]], chunk: Chunk) -> ChunkKind:
    """What the definition calls slices that correspond."""
    s0, s1, t0, t1 = chunk
    borders = symbol_borders(student)
    events = {borders[i] for i in range(s0, s1) if student.event[i] != Event.NONE}
    if any(kind == PairKind.NORMALISED for _, kind in parts):
        return ChunkKind.NORMALISED
    if all(kind == PairKind.MARKER or place in events for place, kind in parts):
        return ChunkKind.EVENT
    if s1 - s0 == 1:
        return ChunkKind.ONE_TO_ONE if t1 - t0 == 1 else ChunkKind.ONE_TO_MANY
    return ChunkKind.MANY_TO_ONE if t1 - t0 == 1 else ChunkKind.MANY_TO_MANY
