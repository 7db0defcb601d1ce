"""`docs/configuration.md`, written from the schema so that it cannot disagree with it."""

from __future__ import annotations

import json

from pydantic import BaseModel

from dragoman.config.describe import expected, section_of
from dragoman.config.schema import Config

_INTRODUCTION = """\
# Configuration

A run is described by one YAML file. This page is generated from the schema (`dragoman.config.schema`).

```yaml
student: {model: smollm2-135m-instruct}
teacher: {model: gemma-3-270m}
data: {train: prompts.jsonl}
train: {steps: 100}
```

Where a key gets its value, later ones winning:

1. the defaults on this page;
2. the defaults of the method named in `method.name`;
3. the file;
4. overrides of the form `section.key=value`, the value written as in YAML: `train.lr=3e-6`,
   `student.lora={r: 8}`, `student.lora.r=8`, `method.clamp=null`.

The result is kept in the run folder as `config.resolved.json`, which is itself a valid configuration file.

* Files are YAML 1.2: `off`, `no` and `on` are text, `1e-5` is a number. A key given twice is an error.
* A key that is not on this page is an error, and so is a value of another type: `"10"` is not a number.
* Relative paths in `data.train`, `data.heldout` and `rollout.replay` are looked up from the working
  directory first, then from the folder of the configuration file. `run.dir` is relative to the working
  directory.
* A step is one round of sampling, scoring and updating. Log-probabilities and credits are in nats.
"""


def configuration_markdown() -> str:
    """The whole page, one table a section: key, what may stand there, default, meaning."""
    return "\n".join([_INTRODUCTION, *_sections(Config, "")])


def _sections(root: type[BaseModel], prefix: str) -> list[str]:
    parts = []
    for name, field in root.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            key = prefix + name
            parts.append(f"## `{key}`\n\n{(section.__doc__ or '').strip()}\n\n{_table(section, key)}")
            parts += _sections(section, f"{key}.")
    return parts


def _table(section: type[BaseModel], key: str) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
        cells = (f"`{key}.{name}`", expected(field), default, field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"
