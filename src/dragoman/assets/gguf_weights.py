"""GGUF weights -> a `model.safetensors` in float32 under Hugging Face names, one block of rows at a time.

`from_pretrained(folder, gguf_file=...)` reads the same weights but cannot save them again and holds the
whole model in memory twice. Here a tensor is dequantised in blocks of rows and written straight to the
file, so the peak is one block (or one attention matrix), and the result is bit-identical to that route.

Two layouts differ between the formats. llama.cpp interleaves the two halves of every rotary head of
the Llama q and k projections; Hugging Face stores them one after the other. llama.cpp stores the Gemma
RMSNorm weight w as the factor 1 + w; Hugging Face stores w. Embeddings are tied when the file holds no
`output.weight`, and then no `lm_head` is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from dragoman.errors import AssetError

if TYPE_CHECKING:
    from gguf import GGUFReader

Transform = Callable[[Float32[np.ndarray, " *shape"]], Float32[np.ndarray, " *shape"]]

_ROOT_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_PROJECTION_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_BLOCK_NAMES = {
    "llama": _PROJECTION_NAMES | {"ffn_norm": "post_attention_layernorm"},
    "gemma3": _PROJECTION_NAMES
    | {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One tensor to write: where it comes from, its Hugging Face name and shape, and its layout change."""

    source: Any
    name: str
    shape: tuple[int, ...]
    transform: Transform | None

    @property
    def num_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))


def hugging_face_name(architecture: str, name: str) -> str:
    """The Hugging Face name of a GGUF tensor.

    >>> hugging_face_name("llama", "blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if architecture not in _BLOCK_NAMES:
        raise AssetError(
            f"GGUF architecture {architecture!r} cannot be converted, only {sorted(_BLOCK_NAMES)}. "
            "Use a model in Hugging Face format instead"
        )
    match = _BLOCK.fullmatch(name)
    if match is not None and match[2] in _BLOCK_NAMES[architecture]:
        return f"model.layers.{match[1]}.{_BLOCK_NAMES[architecture][match[2]]}.weight"
    root = name.removesuffix(".weight")
    if root in _ROOT_NAMES and root != name:
        return f"{_ROOT_NAMES[root]}.weight"
    raise AssetError(
        f"GGUF tensor {name!r} has no place in a {architecture} model: leaving it out would change what the "
        "model computes, so the conversion stops"
    )


def split_rotary_halves(weight: Float32[np.ndarray, "R D"], num_heads: int) -> Float32[np.ndarray, "R D"]:
    """Undo llama.cpp's interleaving of a q or k projection: rows (0, 1, 2, 3) of a head become (0, 2, 1, 3).

    Row 2i + h of a head is row i of half h; the result lists half 0 before half 1.
    """
    pairs = weight.reshape(num_heads, weight.shape[0] // num_heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def write_safetensors(reader: GGUFReader, path: Path) -> int:
    """Write every tensor of `reader` to `path` in float32; returns the number of weights.

    AssetError for an unknown architecture or tensor; OSError (a full disk) is left to the caller.
    """
    plans = [_plan(reader, tensor) for tensor in reader.tensors]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for plan in plans:
        entry = {"dtype": "F32", "shape": plan.shape, "data_offsets": (offset, offset + plan.num_bytes)}
        header[plan.name] = entry  # type: ignore[assignment]
        offset += plan.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for plan in plans:
            for block in _dequantised(plan):
                file.write(np.ascontiguousarray(block, dtype="<f4").data)
    return offset // 4


def _plan(reader: GGUFReader, tensor: Any) -> _Plan:
    architecture = reader.fields["general.architecture"].contents()
    return _Plan(
        source=tensor,
        name=hugging_face_name(architecture, tensor.name),
        shape=tuple(int(size) for size in reversed(tensor.shape)),
        transform=_layout_change(reader, architecture, tensor.name),
    )


def _layout_change(reader: GGUFReader, architecture: str, name: str) -> Transform | None:
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return lambda weight: weight - np.float32(1)
    if architecture == "llama" and name.endswith((".attn_q.weight", ".attn_k.weight")):
        key = "head_count" if ".attn_q." in name else "head_count_kv"
        num_heads = int(reader.fields[f"llama.attention.{key}"].contents())
        return lambda weight: split_rotary_halves(weight, num_heads)
    return None


def _dequantised(plan: _Plan) -> Iterator[Float32[np.ndarray, " *shape"]]:
    """The tensor in float32, in blocks of rows where its layout does not change."""
    from gguf import dequantize

    data, kind = plan.source.data, plan.source.tensor_type
    if plan.transform is not None:
        yield plan.transform(dequantize(data, kind).reshape(plan.shape))
        return
    rows = max(1, _BLOCK_BYTES // max(1, plan.num_bytes // len(data)))
    for start in range(0, len(data), rows):
        yield dequantize(data[start : start + rows], kind)
