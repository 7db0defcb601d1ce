"""Conversations in which the student has several turns, one after another.

Each turn is a rollout of its own whose prompt is the conversation so far: the student's earlier turns stand
in it as messages, in the form a server would give them back (decision 0008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dragoman.errors import DataError
from dragoman.rollout.engine import Request
from dragoman.types import Message, Prompt, Rollout, StopReason


def sampled_places(prompt: Prompt) -> list[int]:
    """Where the messages that are the student's turns stand."""
    return [place for place, message in enumerate(prompt.messages or ()) if message.sampled]


def check_open(prompt: Prompt) -> None:
    """Raise DataError if a turn of the student's is written already, so that sampling would replace it."""
    for place in sampled_places(prompt):
        assert prompt.messages is not None
        if not prompt.messages[place].is_slot:
            raise DataError(
                f"prompt {prompt.key!r} ({prompt.origin or 'no file'}): message {place} is a recording of a "
                "sampled turn, which this run would not use; set rollout.engine=recorded to train on it, or "
                "take `sampled` from it to have it as context"
            )


@dataclass
class Episode:
    """One request on its way through the turns of its prompt."""

    request: Request
    rollouts: list[Rollout] = field(default_factory=list)
    is_over: bool = False
    _answers: list[Message] = field(default_factory=list)

    @property
    def turn(self) -> int:
        """The number of the turn to be sampled next."""
        return len(self.rollouts)

    @property
    def prompt(self) -> Prompt:
        """The conversation up to that turn."""
        prompt = self.request.prompt
        places = sampled_places(prompt)
        if not places:
            return prompt
        assert prompt.messages is not None
        messages = list(prompt.messages)
        for place, answer in zip(places, self._answers, strict=False):
            messages[place] = answer
        end = places[self.turn] if self.turn < len(places) else len(messages)
        return replace(prompt, messages=tuple(messages[:end]))

    def add(self, rollout: Rollout) -> None:
        """Take the next turn. An episode that is not over then needs the `answer` it gave."""
        self.rollouts.append(rollout)
        places = sampled_places(self.request.prompt)
        num_turns = len(places)
        if not places or places[-1] < len(self.request.prompt.messages or ()) - 1:
            num_turns += 1
        was_cut = rollout.stop not in (StopReason.STOP, StopReason.STRING)
        self.is_over = was_cut or self.turn == num_turns

    def answer(self, message: Message) -> None:
        """What the last turn said, for the turns that follow."""
        messages = self.request.prompt.messages or ()
        following = messages[sampled_places(self.request.prompt)[self.turn - 1] + 1 :]
        self._answers.append(_named_calls(replace(message, sampled=not _is_empty(message)), following))


def _is_empty(message: Message) -> bool:
    """A turn without a word: marked as sampled it would read as one still to be written."""
    return replace(message, sampled=True).is_slot


def _named_calls(message: Message, following: Sequence[Message]) -> Message:
    """A message whose calls have the ids that the results behind it refer to: the n-th result is that of the
    n-th call. An id that the student wrote is kept where the result names none."""
    results = []
    for result in following:
        if result.role != "tool":
            break
        results.append(result)
    calls = list(message.tool_calls)
    for index, result in enumerate(results[: len(calls)]):
        calls[index] = replace(calls[index], id=result.tool_call_id or calls[index].id)
    return replace(message, tool_calls=tuple(calls))
