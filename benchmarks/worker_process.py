"""A process that answers lines of JSON with lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerProcess:
    """One side of a benchmark; `greeting` is what it says when it is ready. `settings` are variables of its
    environment, unless the caller's own has others."""

    def __init__(
        self, name: str, command: Sequence[str | Path], threads: int, settings: Mapping[str, str] = PASSIVE
    ) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**settings, **os.environ, "OMP_NUM_THREADS": str(threads), **QUIET},
        )
        self.greeting = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end by itself."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} worker ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
