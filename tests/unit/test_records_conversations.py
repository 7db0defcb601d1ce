"""Records of conversations, of chunks with reasons of their own, and of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.observe import Record, read_records, write_records
from dragoman.types import Alignment, ChunkKind, DropReason, Message, Prompt, ToolCall
from recorded import assert_same, example


def test_every_field_of_a_conversation(tmp_path: Path) -> None:
    call = ToolCall(name="look", arguments='{"at": "sea"}', id="c1")
    asked = Message(role="user", content="Look.", name="Ann")
    called = Message(role="assistant", reasoning_content="Hm.", tool_calls=(call,), sampled=True)
    answer = Message(role="tool", tool_call_id="c1")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    prompt = Prompt(key="p", messages=(asked, called, answer), tools=(tool,), origin="p.jsonl:1")
    record = Record(rollout=replace(example().rollout, prompt=prompt, turn=1), step=1)
    path = tmp_path / "r.jsonl"
    write_records(path, [record])
    line = json.loads(path.read_text(encoding="utf-8"))
    assert (line["key"], line["turn"]) == ("p/0.1", 1)
    assert line["prompt"] == {
        "key": "p",
        "messages": [
            {"role": "user", "content": "Look.", "name": "Ann"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "Hm.",
                "tool_calls": [{"name": "look", "arguments": '{"at": "sea"}', "id": "c1"}],
                "sampled": True,
            },
            {"role": "tool", "content": "", "tool_call_id": "c1"},
        ],
        "tools": [tool],
        "origin": "p.jsonl:1",
    }
    assert_same(list(read_records(path)), [record])


def reasons_read_back(folder: Path, kinds: list[ChunkKind], reasons: list[DropReason]) -> list[Any]:
    """The recorded chunk rows, once the reasons have been found to survive."""
    size = len(kinds)
    alignment = Alignment(
        student_bounds=np.arange(size + 1),
        teacher_bounds=np.arange(size + 1),
        kind=np.array(kinds, np.uint8),
        reason=np.array(reasons, np.uint8),
    )
    path = folder / "r.jsonl"
    write_records(path, [replace(example(), alignment=alignment)])
    (record,) = read_records(path)
    assert record.alignment is not None
    assert_same(record.alignment.reasons, alignment.reasons)
    rows: list[Any] = json.loads(path.read_text(encoding="utf-8"))["chunks"]
    return rows


def test_reasons_that_the_kinds_do_not_tell(tmp_path: Path) -> None:
    kinds = [ChunkKind.ONE_TO_ONE, ChunkKind.STUDENT_ONLY, ChunkKind.IMPURE]
    reasons = [DropReason.NONE, DropReason.TOOL_SYNTAX, DropReason.BYTES_DIFFER]
    rows = reasons_read_back(tmp_path, kinds, reasons)
    # The first has no reason
    assert [row[4:] for row in rows] == [
        ["1:1"],
        ["student-only", "tool_syntax"],
        ["impure", "bytes_differ"],
    ]
    # A reason taken away is not read back as the usual one
    rows = reasons_read_back(tmp_path, kinds[:2], [DropReason.NONE, DropReason.NONE])
    assert rows[1][4:] == ["student-only", "none"]
    assert [row[4:] for row in reasons_read_back(tmp_path, kinds[:1], [DropReason.NONE])] == [["1:1"]]


def test_a_record_of_before_these_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [example()])
    line = json.loads(path.read_text(encoding="utf-8"))
    for part, key in ((line, "turn"), (line["student"], "stop_logp"), (line["teacher"], "stop_logp")):
        del part[key]
    del line["teacher"]["correspondence"]
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    before = example()
    assert before.view is not None
    expected = replace(
        before,
        rollout=replace(before.rollout, stop_logp=None),
        view=replace(before.view, correspondence=None),
    )
    assert_same(list(read_records(path)), [expected])
