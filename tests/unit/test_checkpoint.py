"""Checkpoints are written whole or not at all, and refuse to be read into what they do not fit."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dragoman.errors import CheckpointError
from dragoman.train import checkpoint
from dragoman.train.checkpoint import Checkpoints, trainable_state

TOTALS = {"seconds": 1.5, "tokens": {"student": 8}}


class Net(nn.Module):
    """Two layers that share one matrix, and one that is not trained."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.tied = nn.Linear(width, width, bias=False)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(width, width).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.frozen(self.tied(torch.tanh(self.first(x))))
        return output


class State:
    """A model and optimiser that have made some steps."""

    def __init__(self, steps: int = 0, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = Net()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.1)
        self.advance(steps)

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.model(torch.ones(2, 3)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in trainable_state(self.model).items()}


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


Save = Callable[..., None]


@pytest.fixture
def save(folder: Path, accelerator: Accelerator) -> Save:
    def write(step: int, state: State, keep: int = 2) -> None:
        Checkpoints(folder, keep=keep).save(step, state.model, state.optimizer, accelerator, TOTALS)

    return write


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_what_is_saved_comes_back(folder: Path, save: Save, accelerator: Accelerator) -> None:
    state = State(steps=2)
    save(7, state)
    expected = state.weights()
    other = State(steps=1, seed=1)
    checkpoints = Checkpoints(folder, keep=2)
    latest = checkpoints.latest()
    assert latest == folder / "step-000007"
    assert checkpoints.load(latest, other.model, other.optimizer, accelerator) == (7, TOTALS)
    assert_equal(other.weights(), expected)
    assert other.model.tied.weight is other.model.first.weight
    # the optimiser's moments came too: both go on alike but for what is not trained
    other.model.frozen.load_state_dict(state.model.frozen.state_dict())
    state.advance(1)
    other.advance(1)
    assert_equal(other.weights(), state.weights())


def test_frozen_and_shared_tensors_are_not_saved_twice() -> None:
    assert sorted(trainable_state(Net())) == ["first.bias", "first.weight"]


def test_no_folder_holds_no_checkpoint(folder: Path) -> None:
    assert Checkpoints(folder, keep=1).latest() is None


def test_old_checkpoints_are_deleted_after_the_new_one_is_whole(folder: Path, save: Save) -> None:
    for step in (8, 9, 10, 100, 1_000_000):
        save(step, State(), keep=3)
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["step-000010", "step-000100", "step-1000000"]


def test_the_newest_is_the_highest_step(folder: Path, save: Save) -> None:
    for step in (999_999, 1_000_000):
        save(step, State())
    assert Checkpoints(folder, keep=2).latest() == folder / "step-1000000"


def test_a_checkpoint_of_the_same_step_is_replaced(
    folder: Path, save: Save, accelerator: Accelerator
) -> None:
    save(1, State())
    newer = State(steps=3)
    save(1, newer)
    other = State(seed=1)
    Checkpoints(folder, keep=2).load(folder / "step-000001", other.model, other.optimizer, accelerator)
    assert_equal(other.weights(), newer.weights())


def full_disk(path: Path) -> None:
    """Write a part, then fail as a full disk does."""
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("part", ["save_file", "torch.save"])
@pytest.mark.parametrize("step", [2, 1], ids=["another step", "the same step"])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    folder: Path,
    save: Save,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    step: int,
) -> None:
    state = State(steps=1)
    save(1, state)
    expected = state.weights()
    state.advance(1)
    with monkeypatch.context() as patched:
        if part == "save_file":
            patched.setattr(checkpoint, "save_file", lambda tensors, path: full_disk(path))
        else:
            patched.setattr(torch, "save", lambda value, path: full_disk(path))
        with pytest.raises(CheckpointError) as caught:
            save(step, state)
    message = str(caught.value)
    assert message.startswith(f"could not write the checkpoint of step {step} to {folder}: ")
    assert "No space left on device. step-000001 is whole; free space and go on with --resume" in message
    assert [path.name for path in folder.iterdir()] == ["step-000001"]
    other = State(seed=1)
    Checkpoints(folder, keep=2).load(folder / "step-000001", other.model, other.optimizer, accelerator)
    assert_equal(other.weights(), expected)
    save(2, state)
    assert Checkpoints(folder, keep=2).latest() == folder / "step-000002"


def test_a_full_disk_at_the_first_checkpoint(
    folder: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "save_file", lambda tensors, path: full_disk(path))
    with pytest.raises(CheckpointError, match="No earlier one exists"):
        save(1, State())
    assert list(folder.iterdir()) == []


def test_what_an_interrupted_write_left_is_no_checkpoint(folder: Path, save: Save) -> None:
    save(1, State())
    left = folder / "step-000002.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert Checkpoints(folder, keep=2).latest() == folder / "step-000001"
    save(2, State())
    assert sorted(path.name for path in folder.iterdir()) == ["step-000001", "step-000002"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("spoil", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_broken_file_is_refused_and_changes_nothing(
    folder: Path, save: Save, accelerator: Accelerator, name: str, spoil: Callable[[Path], Any]
) -> None:
    save(1, State(steps=1))
    path = folder / "step-000001"
    spoil(path / name)
    other = State(seed=1)
    before = other.weights()
    with pytest.raises(CheckpointError, match=r"step-000001 cannot be read: .+; remove it to use the one"):
        Checkpoints(folder, keep=2).load(path, other.model, other.optimizer, accelerator)
    assert_equal(other.weights(), before)


def test_a_state_without_totals_is_refused(folder: Path, save: Save, accelerator: Accelerator) -> None:
    save(1, State())
    (folder / "step-000001" / "state.json").write_text(json.dumps({"step": 1}))
    state = State()
    with pytest.raises(CheckpointError, match="cannot be read: 'totals'"):
        Checkpoints(folder, keep=2).load(folder / "step-000001", state.model, state.optimizer, accelerator)


def test_the_checkpoint_of_another_model_is_refused(
    folder: Path, save: Save, accelerator: Accelerator
) -> None:
    save(1, State())
    other = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(CheckpointError, match=r"is of another model: 4 tensors differ, such as 'bias'"):
        Checkpoints(folder, keep=2).load(folder / "step-000001", other, optimizer, accelerator)


def test_the_checkpoint_of_a_model_of_another_size_is_refused(
    folder: Path, save: Save, accelerator: Accelerator
) -> None:
    save(1, State())
    wide = Net(width=4)
    before = wide.first.weight.clone()
    optimizer = torch.optim.AdamW([p for p in wide.parameters() if p.requires_grad])
    with pytest.raises(CheckpointError, match="is of another model"):
        Checkpoints(folder, keep=2).load(folder / "step-000001", wide, optimizer, accelerator)
    assert torch.equal(wide.first.weight, before)
