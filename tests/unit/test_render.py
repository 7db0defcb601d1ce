"""A prompt and a response in one model's form: contexts, stop sets, and views of another model's response."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

import tiny
from dragoman.config import ModelConfig, StudentConfig, TeacherConfig
from dragoman.errors import ConfigError, RenderError, TokenizerError
from dragoman.render import Renderer, Template
from dragoman.types import Event, Message, Prompt, Rollout, StopReason, TokenText

ENDOFTEXT, IM_START, IM_END = 0, 1, 2
EOS, BOS, START_OF_TURN, END_OF_TURN = 1, 2, 4, 5

QUESTION = Prompt(key="q1", text="What is 12 + 30?", origin="questions.jsonl:1")


def student(folder: Path, **settings: object) -> Renderer:
    return Renderer.from_config(StudentConfig.model_validate({"model": str(folder), **settings}))


def teacher(folder: Path, **settings: object) -> Renderer:
    return Renderer.from_config(TeacherConfig.model_validate({"model": str(folder), **settings}))


def rollout_of(renderer: Renderer, data: bytes, stop: StopReason, prompt: Prompt = QUESTION) -> Rollout:
    return rollout_with(renderer.completion(data, stop), stop, renderer.context_ids(prompt), prompt)


def rollout_with(
    completion: TokenText, stop: StopReason, context: np.ndarray, prompt: Prompt = QUESTION
) -> Rollout:
    return Rollout(
        prompt=prompt, sample=3, context_ids=context, completion=completion, behaviour_logp=None, stop=stop
    )


def conversation(*turns: tuple[str, str]) -> Prompt:
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    return Prompt(key="c1", messages=messages, origin="chats.jsonl:7")


def text_of(renderer: Renderer, ids: np.ndarray) -> str:
    """Names of control tokens and bytes of all others, in order."""
    tokenization = renderer.tokenization
    return "".join(
        tokenization.token_name(i) if tokenization.is_event(i) else tokenization.token_bytes(i).decode()
        for i in ids.tolist()
    )


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level(tmp_path_factory.mktemp("chatml"))


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sentencepiece(tmp_path_factory.mktemp("turns"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model: a beginning and an end of sequence, no chat template."""
    return tiny.sentencepiece(tmp_path_factory.mktemp("base"), chat_template=None)


class TestStopSet:
    def test_the_end_of_turn_joins_the_end_of_sequence(self, chatml: Path) -> None:
        renderer = student(chatml)
        assert renderer.tokenization.stop_ids == {ENDOFTEXT, IM_END}
        assert renderer.stop_id == IM_END

    def test_another_family(self, turns: Path) -> None:
        renderer = student(turns)
        assert renderer.tokenization.stop_ids == {EOS, END_OF_TURN}
        assert renderer.stop_id == END_OF_TURN

    def test_plain_stops_at_the_end_of_sequence_only(self, chatml: Path) -> None:
        renderer = student(chatml, template="plain")
        assert renderer.tokenization.stop_ids == {ENDOFTEXT}
        assert renderer.stop_id == ENDOFTEXT

    def test_generation_config_is_heard(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path, chat_template=None, eos="<|im_end|>")
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ENDOFTEXT]}))
        renderer = student(folder)
        assert renderer.tokenization.stop_ids == {ENDOFTEXT, IM_END}
        assert renderer.stop_id == IM_END

    def test_a_turn_that_ends_with_the_head_of_the_next(self, tmp_path: Path) -> None:
        # Each turn is its head and its text: after "PROBE" comes nothing, or the next head.
        template = (
            "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{% else %}<|im_end|>{% endif %}"
            "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|im_end|>{% endif %}"
        )
        renderer = student(tiny.byte_level(tmp_path, chat_template=template))
        assert renderer.tokenization.stop_ids == {ENDOFTEXT, IM_START}
        assert renderer.stop_id == IM_START

    def test_white_space_before_the_end_of_turn(self, tmp_path: Path) -> None:
        template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' <|im_end|>' }}{% endfor %}"
        renderer = student(tiny.byte_level(tmp_path, chat_template=template))
        assert renderer.stop_id == IM_END

    def test_the_head_of_the_next_turn_is_no_stop_after_an_end(self, tmp_path: Path) -> None:
        # Llama 3's form: the end of one turn is directly followed by the start of the next.
        template = (
            "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>{% endfor %}"
        )
        renderer = student(tiny.byte_level(tmp_path, chat_template=template))
        assert renderer.tokenization.stop_ids == {ENDOFTEXT, IM_END}

    def test_text_after_the_answer_is_no_stop(self, tmp_path: Path) -> None:
        template = "{% for m in messages %}{{ m['content'] + ' over.<|im_end|>' }}{% endfor %}"
        renderer = student(tiny.byte_level(tmp_path, chat_template=template))
        assert renderer.tokenization.stop_ids == {ENDOFTEXT}

    def test_an_end_of_turn_that_is_not_marked_special(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path)
        state = json.loads((folder / "tokenizer.json").read_text())
        for token in state["added_tokens"]:
            token["special"] = token["content"] != "<|im_end|>"
        (folder / "tokenizer.json").write_text(json.dumps(state))
        renderer = student(folder)
        assert renderer.stop_id == IM_END
        assert renderer.tokenization.is_event(IM_END)

    def test_named_tokens_replace_what_was_found(self, chatml: Path) -> None:
        renderer = student(chatml, stop_tokens=["<|im_start|>"])
        assert renderer.tokenization.stop_ids == {IM_START}
        assert renderer.stop_id == IM_START

    def test_named_tokens_do_not_change_which_one_is_written(self, chatml: Path) -> None:
        renderer = student(chatml, stop_tokens=["<|im_start|>", "<|endoftext|>", "<|im_end|>"])
        assert renderer.stop_id == IM_END

    def test_unknown_name(self, chatml: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"teacher\.stop_tokens.*'<im_end>'.*did you mean '<\|im_end\|>'"
        ):
            teacher(chatml, stop_tokens=["<im_end>"])

    def test_unknown_name_unlike_any(self, chatml: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"student\.stop_tokens names 'zzz', which is no token of"
        ) as found:
            student(chatml, stop_tokens=["zzz"])
        assert "did you mean" not in str(found.value)

    @pytest.mark.parametrize(("load", "key"), [(student, "student"), (teacher, "teacher")])
    def test_none_at_all(self, tmp_path: Path, load: type, key: str) -> None:
        folder = tiny.byte_level(tmp_path, chat_template=None, eos=None)
        with pytest.raises(RenderError, match=rf"no token is known to end.*Set {key}\.stop_tokens"):
            load(folder)

    def test_a_template_alone_is_enough(self, tmp_path: Path) -> None:
        renderer = student(tiny.byte_level(tmp_path, eos=None))
        assert renderer.tokenization.stop_ids == {IM_END}


class TestTemplate:
    def test_auto_is_chat_where_there_is_a_template(self, chatml: Path, base: Path) -> None:
        assert student(chatml).template is Template.CHAT
        assert student(base).template is Template.PLAIN

    def test_chat_without_a_template(self, base: Path) -> None:
        with pytest.raises(RenderError, match=r"teacher\.template is chat.*no chat template.*template=plain"):
            teacher(base, template="chat")

    def test_plain_in_spite_of_a_template(self, chatml: Path) -> None:
        renderer = student(chatml, template="plain")
        assert text_of(renderer, renderer.context_ids(QUESTION)) == "What is 12 + 30?"

    def test_a_text_prompt_is_one_user_message(self, chatml: Path) -> None:
        renderer = student(chatml)
        expected = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"
        assert text_of(renderer, renderer.context_ids(QUESTION)) == expected
        assert renderer.context_ids(QUESTION).dtype == np.int64

    def test_plain_text_follows_the_beginning_of_sequence(self, base: Path) -> None:
        renderer = student(base)
        assert text_of(renderer, renderer.context_ids(QUESTION)) == "<s>What is 12 + 30?"

    def test_a_conversation_in_plain_text(self, base: Path) -> None:
        prompt = conversation(
            ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "42?")
        )
        renderer = student(base)
        # The system message has no head; every other turn has its role on a line of its own.
        expected = "<s>Be brief.\n\nUser:\nHi\n\nAssistant:\nHello\n\nUser:\n42?\n\nAssistant:\n"
        assert text_of(renderer, renderer.context_ids(prompt)) == expected

    def test_the_end_of_sequence_after_a_text_is_left_out(self, tmp_path: Path) -> None:
        folder = tiny.sentencepiece(tmp_path, chat_template=None)
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.post_processor = processors.TemplateProcessing(
            single=["<s>", "$A", "</s>"], special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
        backend.save(str(folder / "tokenizer.json"))
        renderer = student(folder)
        assert text_of(renderer, renderer.context_ids(QUESTION)) == "<s>What is 12 + 30?"

    def test_variables_reach_the_template(self, tmp_path: Path) -> None:
        template = tiny.CHATML + "{% if think is false %}no thinking{% endif %}"
        folder = tiny.byte_level(tmp_path, chat_template=template)
        loud = student(folder, chat_template_kwargs={"think": False})
        assert text_of(loud, loud.context_ids(QUESTION)).endswith("assistant\nno thinking")
        assert "no thinking" not in text_of(student(folder), student(folder).context_ids(QUESTION))

    def test_arguments_are_no_variables(self, chatml: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"student\.chat_template_kwargs sets tokenize, expected variables"
        ):
            student(chatml, chat_template_kwargs={"tokenize": False, "think": True})

    def test_a_template_that_raises(self, tmp_path: Path) -> None:
        template = (
            "{% if messages[0]['role'] == 'system' %}"
            "{{ raise_exception('no system message here') }}{% endif %}" + tiny.CHATML
        )
        renderer = student(tiny.byte_level(tmp_path, chat_template=template))
        prompt = conversation(("system", "Be brief."), ("user", "Hi"))
        with pytest.raises(RenderError) as found:
            renderer.context_ids(prompt)
        for part in ("'c1'", "chats.jsonl:7", "no system message here", "['system', 'user']"):
            assert part in str(found.value)

    def test_a_template_that_always_raises(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path, chat_template="{{ raise_exception('set mode') }}")
        with pytest.raises(RenderError, match=r"cannot render a conversation of one question.*set mode"):
            student(folder, chat_template_kwargs={"speed": 1})

    def test_a_template_with_an_error_in_it(self, tmp_path: Path) -> None:
        folder = tiny.byte_level(tmp_path, chat_template="{% for m in messages %}")
        with pytest.raises(RenderError, match="cannot render"):
            student(folder)


class TestContext:
    @pytest.mark.parametrize("text", ["", "a"])
    def test_without_beginning_of_sequence(self, tmp_path: Path, text: str) -> None:
        renderer = student(tiny.byte_level(tmp_path, chat_template=None))
        prompt = Prompt(key="e7", text=text, origin="empty.jsonl:7")
        if text:
            assert len(renderer.context_ids(prompt)) == 1
        else:
            with pytest.raises(RenderError, match=r"'e7' \(empty\.jsonl:7\) has no tokens"):
                renderer.context_ids(prompt)

    def test_beginning_of_sequence_is_context_enough(self, base: Path) -> None:
        assert student(base).context_ids(Prompt(key="e", text="")).tolist() == [BOS]

    def test_dummy_prefix_is_put_before_a_prompt_but_not_an_answer(self, tmp_path: Path) -> None:
        renderer = student(tiny.sentencepiece(tmp_path, chat_template=None, dummy_prefix=True))
        assert text_of(renderer, renderer.context_ids(QUESTION)) == "<s> What is 12 + 30?"
        assert renderer.completion(b"42", StopReason.LENGTH).data == b"42"

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
            student(tmp_path)

    def test_a_bare_model_section_is_named_so(self, base: Path) -> None:
        with pytest.raises(RenderError, match=r"^model\.template is chat"):
            Renderer.from_config(ModelConfig(model=str(base), template="chat"))


class TestView:
    def test_a_finished_response(self, chatml: Path, turns: Path) -> None:
        rollout = rollout_of(student(chatml), b"The answer is 42.", StopReason.STOP)
        renderer = teacher(turns)
        view = renderer.view(rollout)
        expected = "<s><start_of_turn>user\nWhat is 12 + 30?<end_of_turn>\n<start_of_turn>model\n"
        assert text_of(renderer, view.ids) == expected + "The answer is 42.<end_of_turn>"
        assert view.start == len(renderer.context_ids(QUESTION))
        assert view.ids[view.start :].tolist() == view.completion.ids.tolist()
        assert view.completion.data == b"The answer is 42."
        assert view.completion.event.tolist() == [Event.NONE] * (len(view.completion) - 1) + [Event.STOP]
        assert view.completion.canonical.all()
        assert (view.rollout_key, view.teacher) == ("q1/3", str(turns))

    def test_a_truncated_response_has_no_stop(self, chatml: Path, turns: Path) -> None:
        rollout = rollout_of(student(chatml), b"The answer is", StopReason.LENGTH)
        view = teacher(turns).view(rollout)
        assert view.completion.num_stops == 0
        assert view.completion.data == b"The answer is"

    def test_the_stop_is_written_in_the_other_models_way(self, chatml: Path, base: Path) -> None:
        rollout = rollout_of(student(chatml), b"42", StopReason.STOP)
        assert rollout.completion.ids[-1] == IM_END
        assert teacher(base).view(rollout).ids[-1] == EOS

    def test_an_empty_response(self, chatml: Path, turns: Path) -> None:
        view = teacher(turns).view(rollout_of(student(chatml), b"", StopReason.LENGTH))
        assert len(view.completion) == 0
        assert view.start == len(view.ids) > 0

    def test_only_a_stop(self, chatml: Path, turns: Path) -> None:
        view = teacher(turns).view(rollout_of(student(chatml), b"", StopReason.STOP))
        assert view.completion.ids.tolist() == [END_OF_TURN]
        assert view.completion.bounds.tolist() == [0, 0]

    def test_a_response_cut_inside_a_character(self, chatml: Path, turns: Path) -> None:
        data = "caf\u00e9".encode()[:-1]
        view = teacher(turns).view(rollout_of(student(chatml), data, StopReason.LENGTH))
        assert view.completion.data == data

    def test_control_tokens_spelled_in_the_answer_stay_text(self, chatml: Path, turns: Path) -> None:
        data = b"write <end_of_turn> and <|im_end|> here"
        view = teacher(turns).view(rollout_of(student(chatml), data, StopReason.STOP))
        assert view.completion.data == data
        assert view.completion.num_stops == 1

    def test_a_stop_token_that_is_part_of_the_answer(self, chatml: Path, turns: Path) -> None:
        rollout = rollout_of(student(chatml), b"The answer is 42.", StopReason.STOP)
        with pytest.raises(RenderError, match=r"holds '▁answer' as text, which is a stop token of"):
            teacher(turns, stop_tokens=["▁answer"]).view(rollout)

    @pytest.mark.parametrize(
        ("ids", "stop", "message"),
        [
            ([40, IM_END], StopReason.LENGTH, r"'q1/3' ended by 'length'.*no stop event; got 1 among its 2"),
            ([40, 41], StopReason.STOP, r"ended by 'stop'.*one stop event, at its end; got 0 among its 2"),
            ([40, IM_END, IM_END], StopReason.STOP, r"got 2 among its 3 tokens, at \[1, 2\]"),
            ([IM_END, 40], StopReason.STOP, r"got 1 among its 2 tokens, at \[0\]"),
            ([], StopReason.STOP, "got 0 among its 0"),
        ],
    )
    def test_a_stop_that_its_reason_denies(
        self, chatml: Path, turns: Path, ids: list[int], stop: StopReason, message: str
    ) -> None:
        writer = student(chatml)
        rollout = rollout_with(writer.tokenization.view(ids), stop, writer.context_ids(QUESTION))
        with pytest.raises(RenderError, match=message):
            teacher(turns).view(rollout)

    def test_the_writer_sees_its_own_canonical_response(self, chatml: Path) -> None:
        rollout = rollout_of(student(chatml), b"There are some more.", StopReason.STOP)
        view = teacher(chatml).view(rollout)
        assert view.completion.ids.tolist() == rollout.completion.ids.tolist()
        assert view.ids[: view.start].tolist() == rollout.context_ids.tolist()


def test_context_and_completion_are_the_whole_conversation(chatml: Path, turns: Path) -> None:
    for folder in (chatml, turns):
        renderer = student(folder)
        answer = "The answer is 42."
        whole = renderer.tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION.text}, {"role": "assistant", "content": answer}],
            tokenize=True,
            return_dict=False,
        )
        completion = renderer.completion(answer.encode(), StopReason.STOP)
        ours = [*renderer.context_ids(QUESTION).tolist(), *completion.ids.tolist()]
        assert ours == whole[: len(ours)]
        assert text_of(renderer, np.array(whole[len(ours) :])) == "\n"


def test_import_is_light() -> None:
    code = "import sys, dragoman.render; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
