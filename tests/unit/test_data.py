"""Prompt files, bad lines named by file and line, and the order in which steps draw prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.data import load_prompts, occurrences, prompt_indices
from dragoman.errors import DataError
from dragoman.types import Message, Prompt


def lines(folder: Path, *rows: object, name: str = "p.jsonl") -> str:
    path = folder / name
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def refused(folder: Path, *rows: object) -> list[str]:
    """The problems reported, without the path in front."""
    source = lines(folder, *rows)
    with pytest.raises(DataError) as caught:
        load_prompts(source)
    head, *problems = str(caught.value).splitlines()
    assert head == "some prompts cannot be used; correct or remove them:"
    return [problem.strip().removeprefix(f"{source}:") for problem in problems]


# --- reading


def test_text_and_conversations(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé\n"}]
    source = lines(
        tmp_path, {"prompt": "Once"}, "", {"messages": turns, "id": 7}, {"prompt": "日", "id": "x"}
    )
    assert load_prompts(source) == [
        Prompt(key="p:1", text="Once", origin=f"{source}:1"),
        Prompt(
            key="7",
            messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hé\n")),
            origin=f"{source}:3",
        ),
        Prompt(key="x", text="日", origin=f"{source}:4"),
    ]


def test_other_field_names_and_nulls(tmp_path: Path) -> None:
    source = lines(
        tmp_path,
        {"question": "a", "prompt": None, "chat": None, "id": None},
        {"chat": [{"role": "user", "content": "b", "name": None}], "question": None},
    )
    prompts = load_prompts(source, prompt_field="question", messages_field="chat")
    assert [prompt.text for prompt in prompts] == ["a", None]
    assert [prompt.key for prompt in prompts] == ["p:1", "p:2"]


def test_limit_stops_reading(tmp_path: Path) -> None:
    source = lines(tmp_path, {"prompt": "a"}, {"prompt": "b"}, "{broken")
    assert [prompt.text for prompt in load_prompts(source, limit=2)] == ["a", "b"]


def test_json_suffix_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a"}\r\n{"prompt": "b"}')
    assert [prompt.text for prompt in load_prompts(str(path))] == ["a", "b"]


def test_base_folder_comes_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, work = tmp_path / "base", tmp_path / "work"
    base.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    lines(base, {"prompt": "from base"})
    assert load_prompts("p.jsonl", base=base)[0].text == "from base"
    lines(work, {"prompt": "from work"})
    assert load_prompts("p.jsonl", base=base)[0] == Prompt(key="p:1", text="from work", origin="p.jsonl:1")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    turn = {"role": "user", "content": "b"}
    columns = {"prompt": ["a", None, ""], "messages": [None, [turn], None], "id": ["k", None, "m"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    first, second = load_prompts(str(path), limit=2)
    assert (first.key, first.text) == ("k", "a")
    assert (second.key, second.messages) == ("p:2", (Message(role="user", content="b"),))
    with pytest.raises(DataError, match=r"p\.parquet:3: `prompt` is empty, expected text"):
        load_prompts(str(path))


def test_parquet_rows_are_counted_across_batches(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [f"t{row}" for row in range(3000)]}), path)
    prompts = load_prompts(str(path))
    assert [prompt.key for prompt in prompts[1022:1026]] == ["p:1023", "p:1024", "p:1025", "p:1026"]
    assert prompts[2999].text == "t2999"


def test_data_set_folder_and_unknown_name(tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    lines(folder, {"prompt": "a"}, {"prompt": "b"}, name="train.jsonl")
    lines(folder, {"prompt": "c"}, name="test.jsonl")
    program = (
        "from dragoman.data import load_prompts\n"
        "from dragoman.errors import DataError\n"
        "print([(p.key, p.text) for p in load_prompts('questions')])\n"
        "print([(p.key, p.text) for p in load_prompts('questions', split='test')])\n"
        "for name, split in (('questions', 'dev'), ('nobody/nothing', 'train'), ('nothing:main', 'train')):\n"
        "    try:\n"
        "        load_prompts(name, split=split)\n"
        "    except DataError as error:\n"
        "        print(error)\n"
    )
    # The library settles on its cache folder when it is imported, hence another process.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    output = done.stdout.splitlines()
    assert output[0] == "[('questions:1', 'a'), ('questions:2', 'b')]"
    assert output[1] == "[('questions:1', 'c')]"
    assert output[2].startswith("cannot read 'questions'") and "'dev'" in output[2]
    assert output[3].startswith("cannot read 'nobody/nothing': it is no prompt file")
    assert output[4].startswith("cannot read 'nothing:main': it is no prompt file")


# --- nothing to read


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no prompt file .*none\.jsonl"):
        load_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"p\.jsonl holds no prompts"):
        load_prompts(lines(tmp_path, "", "  "))
    with pytest.raises(DataError, match=r"ending in '\.txt', expected one of \.jsonl, \.json, \.parquet"):
        load_prompts(lines(tmp_path, "a", name="p.txt"))
    with pytest.raises(DataError, match="got no Parquet table"):
        load_prompts(lines(tmp_path, "not a table", name="p.parquet"))


# --- bad lines

USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"prompt": "a"', "got broken JSON (Expecting ',' delimiter at column "),
        ('{"prompt": ' + 5000 * "7" + "}", "got JSON that cannot be read (Exceeds the limit (4300 digits)"),
        ([1], "got [1], expected an object"),
        ("null", "got null, expected an object"),
        ({"text": "a"}, "got the fields 'text', expected 'prompt' (text) or 'messages' (a list)"),
        ({}, "got the fields nothing, expected 'prompt'"),
        ({"prompt": 3}, "`prompt` is 3, expected text"),
        ({"prompt": " \n"}, "`prompt` is empty, expected text"),
        ({"prompt": "a\ud800"}, "`prompt` holds the lone surrogate U+D800, expected valid Unicode"),
        (
            {"prompt": [USER]},
            "`prompt` is a list, expected text; if it is a conversation, set data.messages_field",
        ),
        ({"prompt": "a", "messages": [USER]}, "got both `prompt` and `messages`, expected one of them"),
        ({"messages": []}, "`messages` is [], expected a list of messages that is not empty"),
        ({"messages": "a"}, '`messages` is "a", expected a list of messages that is not empty'),
        ({"messages": ["a"]}, '`messages[0]` is "a", expected an object with role and content'),
        ({"messages": [{"role": "user"}]}, '`messages[0]` is {"role": "user"}, expected an object with role'),
        (
            {"messages": [USER, {"role": "human", "content": "a"}]},
            '`messages[1]` has the role "human", expected one of system, developer, user, assistant, tool',
        ),
        ({"messages": [{"role": ["user"], "content": "a"}]}, '`messages[0]` has the role ["user"], expected'),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "the content of `messages[0]` is empty, expected text",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "the content of `messages[0]` is null, expected"),
        ({"messages": [USER, {"role": "assistant", "content": "b"}]}, "`messages` ends with the assistant"),
        ({"messages": [{**USER, "tool_calls": [1]}]}, "`messages[0]` has 'tool_calls', which would be lost"),
        ({"prompt": "a", "id": 1.5}, "`id` is 1.5, expected text or a whole number"),
        ({"prompt": "a", "id": True}, "`id` is true, expected text or a whole number"),
        ({"prompt": "a", "id": ""}, '`id` is "", expected text or a whole number'),
    ],
)
def test_bad_line(tmp_path: Path, row: object, problem: str) -> None:
    (found,) = refused(tmp_path, {"prompt": "fine"}, row, {"prompt": "fine"})
    assert found.startswith(f"2: {problem}")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:2: got the byte 0xe9 at offset 12, expected UTF-8"):
        load_prompts(str(path))


def test_id_given_twice(tmp_path: Path) -> None:
    assert refused(tmp_path, {"prompt": "a", "id": "k"}, {"prompt": "b"}, {"prompt": "c", "id": "k"}) == [
        "3: the id 'k' is that of line 1 too, expected another"
    ]
    # line 2 would be called p:2 if that were not taken
    assert refused(tmp_path, {"prompt": "a", "id": "p:2"}, {"prompt": "b"}) == [
        "2: the id 'p:2' is that of line 1 too, expected another"
    ]


def test_ten_bad_lines_are_enough(tmp_path: Path) -> None:
    assert len(refused(tmp_path, *[{}] * 9, {"prompt": "fine"})) == 9
    problems = refused(tmp_path, {"prompt": "fine"}, *[{}] * 12)
    assert [problem.partition(":")[0] for problem in problems[:10]] == [str(line) for line in range(2, 12)]
    assert problems[10:] == ["no further lines were looked at"]


# --- order


SIZES = st.integers(1, 40)


@given(
    num=SIZES, a_step=SIZES, seed=st.integers(0, 2**32 - 1), shuffle=st.booleans(), epochs=st.integers(1, 3)
)
def test_every_epoch_is_every_prompt_once(
    num: int, a_step: int, seed: int, shuffle: bool, epochs: int
) -> None:
    steps = -(-num * epochs // a_step)
    drawn = [prompt_indices(num, step, a_step, seed, shuffle) for step in range(1, steps + 1)]
    assert all(len(step) == a_step and step.dtype == np.int64 for step in drawn)
    stream = np.concatenate(drawn)
    for epoch in range(epochs):
        assert sorted(stream[epoch * num : (epoch + 1) * num].tolist()) == list(range(num))
    if not shuffle:
        assert stream.tolist() == [place % num for place in range(len(stream))]


@given(num=SIZES, a_step=SIZES, seed=st.integers(0, 2**32 - 1), step=st.integers(1, 50))
def test_a_step_needs_no_history(num: int, a_step: int, seed: int, step: int) -> None:
    alone = prompt_indices(num, step, a_step, seed, True)
    for earlier in range(1, step):
        prompt_indices(num, earlier, a_step, seed, True)
    assert np.array_equal(prompt_indices(num, step, a_step, seed, True), alone)


def test_epochs_and_seeds_differ() -> None:
    epochs = [tuple(prompt_indices(50, step, 50, 0, True)) for step in (1, 2, 3)]
    seeds = [tuple(prompt_indices(50, 1, 50, seed, True)) for seed in (0, 1, 2)]
    assert len({*epochs, *seeds}) == 5
    assert epochs[0] == seeds[0] != tuple(range(50))


def test_step_across_an_epoch() -> None:
    # 3 prompts, 2 a step, in file order: 0 1 | 2 0 | 1 2
    assert [prompt_indices(3, step, 2, 0, False).tolist() for step in (1, 2, 3)] == [[0, 1], [2, 0], [1, 2]]


@pytest.mark.parametrize(("num", "step", "a_step"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_draw(num: int, step: int, a_step: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        prompt_indices(num, step, a_step, 0, True)


@given(st.lists(st.integers(0, 5), max_size=20))
def test_occurrences_make_pairs_unique(indices: list[int]) -> None:
    counted = occurrences(np.array(indices, np.int64)).tolist()
    assert counted == [indices[:place].count(index) for place, index in enumerate(indices)]
    assert len(set(zip(indices, counted, strict=True))) == len(indices)
