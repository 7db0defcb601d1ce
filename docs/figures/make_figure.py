"""Draw `alignment.svg`, the figure of the README: one text as two tokenizers see it, over its bytes.

    python docs/figures/make_figure.py

Needs the tokenizers of the embedded pair (`dragoman assets get pair`). Every byte is equally wide, so that a
border in one row stands over the border of the other exactly where their bytes agree.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from dragoman import assets
from dragoman.alignment import align
from dragoman.report.layout import chunk_slices, token_label
from dragoman.text import Tokenization
from dragoman.types import Alignment, ChunkKind, TokenText

TEXT = "Dragoman's café ☕"
STUDENT = ("SmolLM2", "smollm2-135m-instruct", "<|im_end|>")
TEACHER = ("Gemma 3", "gemma-3-270m", "<eos>")

LEFT, BYTE, EVENT, ROW, GAP = 84, 40, 84, 36, 3
TOP = 8
RULER = TOP + 2 * (ROW + GAP)
KINDS = RULER + 44
HEIGHT = KINDS + 26

STYLE = """
  text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
  text { fill: #1f2328; text-anchor: middle; }
  .name { font: 600 14px system-ui, -apple-system, "Segoe UI", sans-serif; text-anchor: start; }
  .small { font-size: 11px; fill: #59636e; }
  .small.name { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #59636e; }
  .even { fill: #dbe7f5; stroke: #7196c2; }
  .odd { fill: #f6e6d0; stroke: #c2955a; }
  .tick, .bracket { stroke: #818b98; fill: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small, .small.name { fill: #9198a1; }
    .even { fill: #1e3350; stroke: #5580b5; }
    .odd { fill: #45311a; stroke: #ad7f45; }
    .tick, .bracket { stroke: #656c76; }
  }
"""


def main() -> None:
    """Tokenise, align, draw."""
    student, teacher = (_tokens(asset, stop) for _, asset, stop in (STUDENT, TEACHER))
    path = Path(__file__).with_name("alignment.svg")
    path.write_text(draw(student, teacher, align(student, teacher)), encoding="utf-8")


def draw(student: TokenText, teacher: TokenText, alignment: Alignment) -> str:
    """The figure as SVG. Chunks alternate in colour; below each stands its kind."""
    num_bytes = len(student.data)
    width = LEFT + num_bytes * BYTE + EVENT + 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        'aria-labelledby="title">',
        f'<title id="title">{escape(TEXT)}: {len(student)} tokens of {STUDENT[0]} above {len(teacher)} '
        f"of {TEACHER[0]}, over {num_bytes} bytes</title>",
        f"<style>{STYLE}</style>",
    ]
    for row, (name, text) in enumerate(((STUDENT[0], student), (TEACHER[0], teacher))):
        parts.append(_text(0, TOP + row * (ROW + GAP) + ROW / 2 + 5, name, "name"))
        for chunk, slices in enumerate(chunk_slices(alignment)):
            parts += [_token(text, token, row, chunk) for token in slices[row]]
    parts += _ruler(student.data)
    for chunk, (above, _) in enumerate(chunk_slices(alignment)):
        start, end = _x(student, above.start), _x(student, above.stop)
        kind = ChunkKind(int(alignment.kind[chunk])).label
        parts.append(
            f'<path class="bracket" d="M{start + 3} {KINDS - 5}v5H{end - 3}v-5"/>'
            + _text((start + end) / 2, KINDS + 15, kind, "small")
        )
    parts += [_text(0, RULER + 18, "bytes", "small name"), _text(0, KINDS + 15, "chunks", "small name")]
    return "\n".join([*parts, "</svg>", ""])


def _tokens(asset: str, stop: str) -> TokenText:
    """The text in a tokenizer's own tokens, ended by its stop."""
    tokenization = Tokenization.from_pretrained(str(assets.folder(asset)))
    stop_id = tokenization.token_id(stop)
    assert stop_id is not None, f"{asset} has no token {stop}"
    ids = tokenization.encode(TEXT.encode()).ids.tolist()
    return tokenization.with_stops([stop_id]).view([*ids, stop_id])


def _x(text: TokenText, border: int) -> int:
    """Where a token border is drawn; an event has a column of its own behind the bytes."""
    num_events = int((text.event[:border] != 0).sum())
    return LEFT + int(text.bounds[border]) * BYTE + num_events * EVENT


def _token(text: TokenText, token: int, row: int, chunk: int) -> str:
    start, end = _x(text, token), _x(text, token + 1)
    y = TOP + row * (ROW + GAP)
    colour = "odd" if chunk % 2 else "even"
    size = f'width="{end - start - 3}" height="{ROW}" rx="4"'
    box = f'<rect class="{colour}" x="{start + 1.5}" y="{y}" {size}/>'
    return box + _text((start + end) / 2, y + ROW / 2 + 5, token_label(text, token), "")


def _ruler(data: bytes) -> list[str]:
    """Every byte in hexadecimal, between ticks."""
    end = LEFT + len(data) * BYTE
    ticks = "".join(f"M{LEFT + i * BYTE} {RULER + 4}v5" for i in range(len(data) + 1))
    marks = [f'<path class="tick" d="M{LEFT} {RULER + 4}H{end}{ticks}"/>']
    for i, byte in enumerate(data):
        marks.append(_text(LEFT + (i + 0.5) * BYTE, RULER + 21, f"{byte:02x}", "small"))
    return marks


def _text(x: float, y: float, content: str, classes: str) -> str:
    attribute = f' class="{classes}"' if classes else ""
    return f'<text{attribute} x="{x:g}" y="{y:g}">{escape(content)}</text>'


if __name__ == "__main__":
    main()
