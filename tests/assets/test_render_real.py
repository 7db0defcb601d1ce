"""Context and completion against `apply_chat_template` of the whole conversation, for real templates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dragoman.config import StudentConfig
from dragoman.errors import RenderError
from dragoman.render import Renderer, Template
from dragoman.types import Message, Prompt, Rollout, StopReason

pytestmark = pytest.mark.assets

Asset = Callable[[str], Path]

# Model -> (the end of its turn, template variables). Qwen 3 writes an empty thought before an answer in
# the whole conversation; without thinking, it is part of the generation prompt, too.
CHAT = {
    "smollm2-135m-instruct": ("<|im_end|>", {}),
    "qwen3": ("<|im_end|>", {"enable_thinking": False}),
    "gemma3": ("<end_of_turn>", {}),
    "llama3.1": ("<|eot_id|>", {}),
    "deepseek-v3": ("<｜end▁of▁sentence｜>", {}),
}

PROMPTS = {
    "text": Prompt(key="text", text="What is 7 + 5?"),
    "one turn": Prompt(key="one", messages=(Message(role="user", content="Name three colours."),)),
    "several turns": Prompt(
        key="several",
        messages=(
            Message(role="system", content="You are an interpreter."),
            Message(role="user", content="Hello there"),
            Message(role="assistant", content="Hello! How can I help?"),
            Message(role="user", content="What is 7 + 5?"),
        ),
    ),
}

ANSWERS = {
    "number": "12.",
    "prose": "The interpreter, who wasn't believed, said it twice; then he left.",
    "list": "1. Red\n2. Blue\n3. Green",
    "code": "```python\ndef f(x):\n\treturn x**2\n```",
    "markup": '{"name": "f", "args": [1, 2.5e-3]}',
}


@cache
def load(folder: Path, name: str) -> Renderer:
    return Renderer.from_config(
        StudentConfig(model=str(folder), chat_template_kwargs=dict(CHAT.get(name, ("", {}))[1]))
    )


def names(renderer: Renderer, ids: list[int]) -> str:
    return " ".join(renderer.tokenization.token_name(index) for index in ids)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", CHAT)
def test_ids_are_those_of_the_whole_conversation(asset: Asset, name: str, prompt: str, answer: str) -> None:
    renderer = load(asset(name), name)
    given = PROMPTS[prompt]
    turns = [(m.role, m.content) for m in given.messages or (Message(role="user", content=given.text or ""),)]
    whole = renderer.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in [*turns, ("assistant", ANSWERS[answer])]],
        tokenize=True,
        return_dict=False,
        **renderer.template_kwargs,
    )
    completion = renderer.completion(ANSWERS[answer].encode(), StopReason.STOP)
    ours = [*renderer.context_ids(given).tolist(), *completion.ids.tolist()]
    assert completion.data == ANSWERS[answer].encode()
    # What a template writes after the end of the turn (a line break) belongs to no answer.
    assert ours == whole[: len(ours)], (
        f"\nours:  {ours}\n       {names(renderer, ours)}\nwhole: {whole}\n       {names(renderer, whole)}"
    )
    rest = renderer.tokenization.view(whole[len(ours) :])
    assert not rest.data.strip() and not rest.event.any(), (
        f"after the answer: {names(renderer, rest.ids.tolist())}"
    )


@pytest.mark.parametrize("name", CHAT)
def test_the_stop_is_the_end_of_turn(asset: Asset, name: str) -> None:
    renderer = load(asset(name), name)
    assert renderer.template is Template.CHAT
    assert renderer.tokenization.token_name(renderer.stop_id) == CHAT[name][0]
    assert renderer.stop_id in renderer.tokenization.stop_ids


@pytest.mark.parametrize("name", ["gemma-3-270m", "llama2", "gpt-oss", "gpt-4o", "claude", "j2"])
def test_plain_text_is_the_tokenizers_own(asset: Asset, name: str) -> None:
    renderer = load(asset(name), name)
    assert renderer.template is Template.PLAIN
    text = "The interpreter  stood\nbetween two courts"
    expected = renderer.tokenizer.backend_tokenizer.encode(text, add_special_tokens=True).ids
    assert renderer.context_ids(Prompt(key="p", text=text)).tolist() == expected


def test_a_tokenizer_that_ends_no_text_needs_a_stop_token(asset: Asset) -> None:
    folder = asset("minilm")
    with pytest.raises(RenderError, match=r"no token is known to end"):
        Renderer.from_config(StudentConfig(model=str(folder)))
    renderer = Renderer.from_config(StudentConfig(model=str(folder), stop_tokens=("[SEP]",)))
    # [CLS] is put before a text; the [SEP] after it would say that the text has ended.
    ids = renderer.context_ids(Prompt(key="p", text="hello")).tolist()
    assert names(renderer, ids) == "[CLS] hello"


def test_every_model_sees_the_same_response(asset: Asset) -> None:
    """An answer of SmolLM2, cut inside a character, in the base model's and four other conversations."""
    writer = load(asset("smollm2-135m-instruct"), "smollm2-135m-instruct")
    prompt = PROMPTS["several turns"]
    for data, stop in (
        ("12, or 十二。".encode(), StopReason.STOP),
        ("十二".encode()[:-1], StopReason.LENGTH),
    ):
        rollout = Rollout(
            prompt=prompt,
            sample=0,
            context_ids=writer.context_ids(prompt),
            completion=writer.completion(data, stop),
            behaviour_logp=None,
            stop=stop,
        )
        assert rollout.completion.data == data
        for name in ("gemma-3-270m", *CHAT):
            view = load(asset(name), name).view(rollout)
            assert view.completion.data == data
            assert view.completion.num_stops == (stop is StopReason.STOP)
            np.testing.assert_array_equal(view.ids[view.start :], view.completion.ids)
