"""Heads that are in parts on several processes are refused, each with what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from dragoman.errors import TrainingError
from dragoman.models.heads import check_head


def test_a_whole_head_and_none_that_is_a_matrix() -> None:
    check_head(nn.Linear(4, 10), 10)
    check_head(nn.Linear(4, 12), 10)  # padded
    check_head(nn.Identity(), 10)


def test_deepspeed() -> None:
    head = nn.Linear(4, 10)
    head.weight = nn.Parameter(torch.zeros(0))
    head.weight.ds_id = 3  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"ZeRO-3, of which 0 numbers.*all 10 rows.*whole weights"):
        check_head(head, 10)


def test_flat_parameters() -> None:
    head = nn.Linear(4, 10)
    head.weight = nn.Parameter(torch.zeros(20))
    with pytest.raises(TrainingError, match=r"flat weight of shape \(20,\), as FSDP"):
        check_head(head, 10)


def test_a_part_of_the_vocabulary() -> None:
    with pytest.raises(TrainingError, match="5 rows, a part of the vocabulary"):
        check_head(nn.Linear(4, 5), 10)


def test_distributed_tensors(tmp_path: Path) -> None:
    init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for placement, refused in ((Shard(0), True), (Replicate(), False)):
            head = nn.Linear(4, 10)
            head.weight = nn.Parameter(distribute_tensor(head.weight.detach(), mesh, [placement]))
            if refused:
                with pytest.raises(TrainingError, match="DTensor weight placed as"):
                    check_head(head, 10)
            else:
                check_head(head, 10)
    finally:
        destroy_process_group()
