"""What a teacher in this process can tell of itself beyond scores, for its self-test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dragoman.teach.capabilities import Generation
from dragoman.teach.in_process import InProcessTeacher
from dragoman.types import Prompt, Rollout, StopReason, TeacherScores, TeacherView, TokenText


class LocalProbe:
    """An in-process teacher that also offers `Generates` and `FullRows`.

    Both go through the model's own forward pass and cache, not through the scorer, so that they can
    disagree with it.
    """

    def __init__(self, teacher: InProcessTeacher) -> None:
        self.name = teacher.name
        self.caps = teacher.caps
        self._teacher = teacher

    def view(self, rollout: Rollout) -> TeacherView:
        """See `Teacher`."""
        return self._teacher.view(rollout)

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        """See `Teacher`."""
        return self._teacher.score(views)

    def generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        """Its greedy answer, up to its first control token, or to an id that only the model has, to pad its
        embedding."""
        tokenization = self._teacher.renderer.tokenization
        model = self._teacher.model
        device = next(model.parameters()).device
        ids = torch.from_numpy(self._context(prompt))[None].to(device)
        found: list[int] = []
        logps: list[float] = []
        past, note = None, ""
        with torch.no_grad():
            for _ in range(max_new_tokens):
                out = model(input_ids=ids, past_key_values=past, use_cache=True)
                row = out.logits[0, -1].float().log_softmax(-1)
                index = int(row.argmax())
                if index >= tokenization.num_ids:
                    note = f"it wrote id {index} next, which its tokenizer does not have"
                    break
                if tokenization.is_event(index):
                    note = f"it wrote {tokenization.token_name(index)} next"
                    break
                found.append(index)
                logps.append(float(row[index]))
                past, ids = out.past_key_values, torch.tensor([[index]], device=device)
        data = b"".join(tokenization.token_bytes(index) for index in found)
        return Generation(
            data=data, ids=np.array(found, np.int64), logp=np.array(logps, np.float32), note=note
        )

    def _context(self, prompt: Prompt) -> np.ndarray:
        """What an answer without thinking is scored behind."""
        none = np.zeros(0, np.int64)
        completion = TokenText(
            ids=none,
            data=b"",
            bounds=np.zeros(1, np.int64),
            event=none.astype(np.uint8),
            canonical=none.astype(bool),
        )
        view = self._teacher.view(
            Rollout(
                prompt=prompt,
                sample=0,
                context_ids=none,
                completion=completion,
                behaviour_logp=None,
                stop=StopReason.LENGTH,
            )
        )
        return view.ids

    def full_row(self, view: TeacherView, index: int) -> Float[np.ndarray, " V"]:
        """The distribution, in nats, from which token `index` of the completion was drawn."""
        model = self._teacher.model
        device = next(model.parameters()).device
        ids = torch.from_numpy(view.ids[: view.start + index])[None].to(device)
        with torch.no_grad():
            row: np.ndarray = model(input_ids=ids).logits[0, -1].float().log_softmax(-1).cpu().numpy()
        return row
