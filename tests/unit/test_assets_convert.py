"""Conversion of tiny GGUF and SentencePiece files made on the spot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from dragoman.assets.convert import convert_gguf
from dragoman.assets.gguf_weights import hugging_face_name, split_rotary_halves, write_safetensors
from dragoman.errors import AssetError

LLAMA_NAMES = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
LLAMA_FEED_FORWARD = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
GEMMA_EXTRA = ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


def write_model(path: Path, architecture: str, vocab_size: int, *, extra: str | None = None) -> None:
    """A one-layer model: width 64, 2 heads of 32 (1 for k and v), random weights, two of them quantised."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if architecture == "gemma3":
        writer.add_key_length(32)
        writer.add_value_length(32)
        writer.add_sliding_window(16)
        add_sentencepiece_vocabulary(writer, vocab_size)
    else:
        add_byte_level_vocabulary(writer)
    draw = np.random.default_rng(7)
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    shapes |= {"attn_q_norm": (32,), "attn_k_norm": (32,)}
    names = LLAMA_NAMES + LLAMA_FEED_FORWARD + (GEMMA_EXTRA if architecture == "gemma3" else ())
    tensors: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": shapes.get(name, (64,)) for name in names}
    tensors |= {"token_embd.weight": (vocab_size, 64), "output_norm.weight": (64,)}
    if extra is not None:
        tensors[extra] = (64,)
    for name, shape in tensors.items():
        weight = draw.normal(size=shape).astype(np.float32)
        if name in ("token_embd.weight", "blk.0.attn_q.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level_alphabet() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def add_byte_level_vocabulary(writer: Any, pre: str = "smollm") -> None:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_level_alphabet(), "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")


def add_sentencepiece_vocabulary(writer: Any, size: int) -> None:
    """Control and reserved pieces, runs of 2 to 4 blanks, all bytes, then letters and two words."""
    pieces = [("<pad>", CONTROL), ("<eos>", CONTROL), ("<bos>", CONTROL), ("<unk>", CONTROL)]
    pieces += [("<mask>", CONTROL), ("<unused0>", CONTROL), ("<start_of_image>", USER_DEFINED)]
    pieces += [(" " * length, USER_DEFINED) for length in (2, 3, 4)]
    pieces += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    pieces += [(piece, NORMAL) for piece in ("▁a", "ab", "▁", "a", "b")]
    assert len(pieces) == size
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores(
        [0.0 if kind == BYTE else -1000.0 for _, kind in pieces[:-5]] + [-1.0, -2.0, -3.0, -4.0, -5.0]
    )
    writer.add_token_types([kind for _, kind in pieces])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


LLAMA_SIZE, GEMMA_SIZE = 260, 271


def convert(tmp_path: Path, architecture: str) -> tuple[Path, Path]:
    """The GGUF file and the folder it was converted into."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    path = source / "model.gguf"
    write_model(path, architecture, LLAMA_SIZE if architecture == "llama" else GEMMA_SIZE)
    convert_gguf(path, folder, lambda step: None)
    return path, folder


def test_rotary_halves_are_taken_apart() -> None:
    # One head of 6 rows, stored as (half 0 row 0, half 1 row 0, half 0 row 1, ...).
    rows = np.array([[0.0], [10.0], [1.0], [11.0], [2.0], [12.0]], np.float32)
    assert split_rotary_halves(rows, 1).ravel().tolist() == [0, 1, 2, 10, 11, 12]
    # Two heads of 4 rows each: rows never leave their head.
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert split_rotary_halves(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_names_differ_between_architectures() -> None:
    # `ffn_norm` is the norm before the MLP: Llama's second norm, Gemma's third.
    assert hugging_face_name("llama", "blk.2.ffn_norm.weight") == (
        "model.layers.2.post_attention_layernorm.weight"
    )
    assert hugging_face_name("gemma3", "blk.2.ffn_norm.weight") == (
        "model.layers.2.pre_feedforward_layernorm.weight"
    )
    assert hugging_face_name("llama", "output.weight") == "lm_head.weight"


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "output"]
)
def test_a_tensor_without_a_place_stops_the_conversion(name: str) -> None:
    with pytest.raises(AssetError, match="has no place in a llama model"):
        hugging_face_name("llama", name)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(AssetError, match=r"'qwen3' cannot be converted, only \['gemma3', 'llama'\]"):
        hugging_face_name("qwen3", "token_embd.weight")


def test_nothing_is_written_when_a_tensor_has_no_place(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", "llama", LLAMA_SIZE, extra="rope_freqs.weight")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    with pytest.raises(AssetError, match="rope_freqs"):
        write_safetensors(reader, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_blocks_of_rows_give_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model.gguf", "gemma3", GEMMA_SIZE)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    count = write_safetensors(reader, tmp_path / "whole.safetensors")
    # 3 rows of 64 float32 a block: 271 rows are 90 blocks and one row.
    monkeypatch.setattr("dragoman.assets.gguf_weights._BLOCK_BYTES", 3 * 64 * 4)
    write_safetensors(reader, tmp_path / "blocks.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "blocks.safetensors").read_bytes()
    # Embedding 271*64; q, o 64*64; k, v 32*64; MLP 3*96*64; five norms of 64 and two of 32.
    assert count == 271 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 5 * 64 + 2 * 32


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_weights_are_those_of_the_transformers_route(tmp_path: Path, architecture: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path, folder = convert(tmp_path, architecture)
    route = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).state_dict()
    written = load_file(folder / "model.safetensors")
    assert set(route) - set(written) == {"lm_head.weight"}
    for name, weight in written.items():
        assert np.array_equal(weight, route[name].numpy()), name
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_stop_ids_and_the_template_come_from_the_file(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, folder = convert(tmp_path, "llama")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["bos_token_id"]) == ([2], 1)
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.model_max_length == 128
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>hi<|im_end|>"


def test_smollm_digits_are_split_off_before_blanks(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, folder = convert(tmp_path, "llama")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    # Split at the digit first, the two blanks are one pre-token and merge; otherwise the second blank would
    # belong to the digit and stay alone.
    assert tokenizer.convert_ids_to_tokens(tokenizer("x  5")["input_ids"]) == ["x", "ĠĠ", "5"]


def test_sentencepiece_merges_and_control_pieces_are_repaired(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, folder = convert(tmp_path, "gemma3")
    spec = json.loads((folder / "tokenizer.json").read_text())
    # Longest left part first among the user-defined runs, then the words by score.
    assert spec["model"]["merges"] == [
        ["▁▁▁", "▁"], ["▁▁", "▁▁"], ["▁▁", "▁"], ["▁", "▁▁▁"], ["▁", "▁▁"], ["▁", "▁"], ["▁", "a"], ["a", "b"]
    ]  # fmt: skip
    special = {token["content"]: token["special"] for token in spec["added_tokens"]}
    assert special == {
        **dict.fromkeys(("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_image>"), True),
        **dict.fromkeys(("<mask>", "<unused0>", "▁▁", "▁▁▁", "▁▁▁▁"), False),
    }
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    # Five blanks are 4 + 1, taken from the left (by vocabulary order they would be 2 + 3); "é" is two bytes.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a     é")["input_ids"]) == [
        "<bos>", "a", "▁▁▁▁", "▁", "<0xC3>", "<0xA9>"
    ]  # fmt: skip


def test_an_unknown_pre_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.assets.gguf_tokenizer._PRE_TOKENIZERS", {})
    with pytest.raises(AssetError, match="pre-tokenizer 'smollm' is not known"):
        convert(tmp_path, "llama")


def test_a_missing_gguf_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(AssetError, match=r"pip install 'dragoman\[assets\]'"):
        convert_gguf(tmp_path / "model.gguf", tmp_path, lambda step: None)
