"""Checkpoints: trainable weights, optimiser and step, written aside and renamed when whole.

Nothing else is needed to go on exactly: the learning rate, the prompts and every random draw are
functions of the run seed and the step.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dragoman.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNREADABLE = (
    OSError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    RuntimeError,
    SafetensorError,
)
_NAME = re.compile(r"step-(\d{6,})")


class Checkpoints:
    """The checkpoints of one run, under `checkpoints/step-NNNNNN/`."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._whole()
        return found[-1] if found else None

    def save(
        self,
        step: int,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        totals: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint; older ones beyond `keep` are deleted afterwards. `totals` is any JSON.

        Raises CheckpointError (for example on a full disk) with the earlier checkpoints untouched.
        """
        target = self._folder / f"step-{step:06d}"
        partial = self._folder / f"{target.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_file(trainable_state(model), partial / "model.safetensors")
            torch.save(optimizer.state_dict(), partial / "optimizer.pt")
            if accelerator.scaler is not None:
                torch.save(accelerator.scaler.state_dict(), partial / "scaler.pt")
            (partial / "state.json").write_text(
                json.dumps({"step": step, "totals": totals}) + "\n", encoding="utf-8"
            )
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.latest()
            raise CheckpointError(
                f"could not write the checkpoint of step {step} to {self._folder}: {error}. "
                + (
                    f"{kept.name} is whole; free space and go on with --resume"
                    if kept
                    else "No earlier one exists"
                )
            ) from error
        for old in self._whole()[: -self._keep]:
            shutil.rmtree(old)

    def load(
        self, path: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> tuple[int, Mapping[str, Any]]:
        """Restore a checkpoint; returns its step and totals. Raises CheckpointError if it is broken or does
        not fit the model."""
        try:
            weights = load_file(path / "model.safetensors")
            state = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
            saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
            step, totals = int(saved["step"]), saved["totals"]
            scaler = path / "scaler.pt"
            if accelerator.scaler is not None and scaler.is_file():
                accelerator.scaler.load_state_dict(torch.load(scaler, weights_only=True))
        except _UNREADABLE as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read: {str(error) or type(error).__name__}; remove it "
                "to use the one before"
            ) from error
        own = dict(_trainable(model))
        differing = sorted(own.keys() ^ weights.keys()) or [
            name for name, parameter in own.items() if parameter.shape != weights[name].shape
        ]
        if differing:
            raise CheckpointError(
                f"the checkpoint {path} is of another model: {len(differing)} tensors differ, such as "
                f"{differing[0]!r}"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        optimizer.load_state_dict(state)
        return step, totals

    def _whole(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def trainable_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The trainable tensors by name, shared ones once."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in _trainable(model)}


def _trainable(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
