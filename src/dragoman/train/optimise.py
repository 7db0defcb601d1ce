"""The update: one pass over a step's records, several optimiser steps if asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float64
from torch import Tensor

from dragoman.config import Config, TrainConfig
from dragoman.errors import TrainingError
from dragoman.models import TokenScorer
from dragoman.models.memory import give_back_freed
from dragoman.models.training import gradients_in_place
from dragoman.objective import Objective, modified
from dragoman.observe import Metrics, Ratio, Record
from dragoman.padding import Packing
from dragoman.pipeline import Stopwatch
from dragoman.train.collate import micro_batches, normaliser
from dragoman.train.scored import batch_loss

_FUSED = {"cpu", "cuda", "xpu", "mps"}
"""Kinds of devices that torch has a fused AdamW for."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step (the first is 1): linear warm-up, then the schedule down to 0.

    A function of the step alone, so that a resumed run needs no saved state.
    """
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps - 1) / max(config.steps - config.warmup_steps, 1)
    if config.schedule == "linear":
        return config.lr * (1.0 - done)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(scorer: TokenScorer, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) over the trainable parameters, in one pass over
    each where torch has that for the device."""
    trainable = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trainable,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=all(parameter.device.type in _FUSED for parameter in trainable),
    )


class Updater:
    """Turns the records of a step into optimiser steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        scorer: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        config: Config,
        packing: Packing = Packing.PADDED,
    ) -> None:
        self._accelerator = accelerator
        self._scorer = scorer
        self._model = accelerator.unwrap_model(scorer).model
        self._optimizer = optimizer
        self._objective = modified(objective)
        self._config = config
        self._packing = packing
        self._batch_tokens = config.train.batch_tokens(accelerator.device.type)

    def update(self, records: Sequence[Record], step: int, watch: Stopwatch | None = None) -> Metrics:
        """`epochs` passes of `minibatches` optimiser steps each over the records of this rank.

        Raises TrainingError before the optimiser moves if a loss or gradient is not finite.
        """
        rate = learning_rate(self._config.train, step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        metrics = Metrics({"lr": Ratio(rate, 1)})
        self._scorer.train()
        for _ in range(self._config.train.epochs):
            for part in _parts(records, self._config.train.minibatches):
                metrics = metrics.merge(self._optimiser_step(part, step, watch or Stopwatch()))
        self._scorer.eval()
        give_back_freed()
        return metrics

    def _optimiser_step(self, records: Sequence[Record], step: int, watch: Stopwatch) -> Metrics:
        normalise = self._config.method.normalise
        batches = micro_batches(
            records, max_tokens=self._batch_tokens, normalise=normalise, packing=self._packing
        )
        count = max(self._sum_over_ranks(normaliser(records, normalise)), 1.0)
        world = self._accelerator.num_processes
        # Where gradients are reduced, every parameter has to say when its own is there.
        in_place = world == 1 and self._accelerator.scaler is None
        metrics, loss = Metrics(), 0.0
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1
            with (
                nullcontext() if is_last else self._accelerator.no_sync(self._scorer),
                gradients_in_place(self._model, enabled=in_place),
            ):
                with watch.part("loss"):
                    output = batch_loss(
                        self._scorer,
                        batch,
                        self._objective,
                        self._config.method,
                        self._accelerator.device,
                        # Replicas average their gradients, the loss is a sum over all of them.
                        scale=world / count,
                        in_place=in_place,
                    )
                with watch.part("backward"):
                    self._accelerator.backward(output.total)
            loss += float(output.total.detach())
            metrics = metrics.merge(output.metrics)
        loss = self._sum_over_ranks(loss) / world
        norm = self._clip()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._optimizer.zero_grad()
            raise TrainingError(
                f"step {step}: loss {loss}, gradient norm {norm}; expected finite values. The weights are as "
                "they were before this update. Lower train.lr, or use train.mixed_precision 'bf16' or 'no'"
            )
        with watch.part("optimiser"):
            self._optimizer.step()
            self._optimizer.zero_grad()
        return metrics.merge(Metrics({"loss": Ratio(loss, 1), "grad_norm": Ratio(norm, 1)}))

    def _clip(self) -> float:
        """The gradient norm before it was scaled down to the limit."""
        limit = self._config.train.max_grad_norm
        norm = self._accelerator.clip_grad_norm_(
            self._scorer.parameters(), float("inf") if limit is None else limit
        )
        return float(norm)

    def _sum_over_ranks(self, value: float) -> float:
        return float(sum_over_processes(self._accelerator, np.array([value]))[0])


def sum_over_processes(
    accelerator: Accelerator, values: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """The sum of an array over all processes, which must all call this."""
    if accelerator.num_processes == 1:
        return values
    total: Tensor = accelerator.reduce(torch.from_numpy(values).to(accelerator.device), reduction="sum")
    return total.cpu().numpy()


def _parts(records: Sequence[Record], number: int) -> Iterator[Sequence[Record]]:
    for indices in np.array_split(np.arange(len(records)), min(number, len(records))):
        yield [records[i] for i in indices]
