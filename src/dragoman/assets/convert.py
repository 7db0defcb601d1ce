"""A GGUF file -> a Hugging Face folder that `from_pretrained` loads, offline, with the same weights.

The configuration comes from the transformers GGUF reader; stop ids come from the file's metadata. The
caller gives an empty folder and moves it into place when this returns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.errors import AssetError

if TYPE_CHECKING:
    from gguf import GGUFReader

_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def convert_gguf(gguf: Path, folder: Path, progress: Callable[[str], None]) -> None:
    """Write weights, configuration, generation defaults and tokenizer of `gguf` into `folder`.

    AssetError when the `gguf` package is missing or the file holds something that cannot be converted.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise AssetError(
            "converting a GGUF file needs the `gguf` package, which is not installed: "
            "pip install 'dragoman[assets]'"
        ) from error

    from dragoman.assets.gguf_tokenizer import write_tokenizer
    from dragoman.assets.gguf_weights import write_safetensors

    progress("reading the GGUF metadata")
    reader = GGUFReader(gguf)
    progress("converting the weights to float32")
    write_safetensors(reader, folder / "model.safetensors")
    progress("writing the configuration")
    config = _write_config(gguf, folder)
    _write_generation_config(reader, folder)
    progress("writing the tokenizer")
    write_tokenizer(reader, gguf, folder, context_length=config.max_position_embeddings)


def _write_config(gguf: Path, folder: Path) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    config.dtype = "float32"
    config.save_pretrained(str(folder))
    return config


def _write_generation_config(reader: GGUFReader, folder: Path) -> None:
    from transformers import GenerationConfig

    def token_id(key: str) -> int | None:
        field = reader.fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else int(field.contents())

    stops = [index for index in map(token_id, _STOP_KEYS) if index is not None]
    if not stops:
        raise AssetError(
            "the GGUF metadata names no end-of-sequence token, so generation from the model would never stop"
        )
    GenerationConfig(
        bos_token_id=token_id("bos_token_id"),
        eos_token_id=list(dict.fromkeys(stops)),
        pad_token_id=token_id("padding_token_id"),
    ).save_pretrained(str(folder))
