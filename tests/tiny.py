"""Tokenizers and models small enough to make in a test, saved as folders that `from_pretrained` loads.

Two spellings of bytes meet, as in a real pair: a byte-level BPE with a ChatML template, and a BPE with
`▁` for the space, byte fallback and turns of another form. Nothing is read but the corpus below, so a
folder is the same in every run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "The interpreter stood between two courts and said every sentence twice.",
    "A teacher scores what the student wrote, token by token and byte by byte.",
    "Hello world, hello students; the other tokenizer splits this text in another way.",
    "What is 12 + 30? The answer is 42. What is the answer to the question?",
    "There are some more sentences here, so that there are merges to be learned here.",
    "def answer(question):\n    return the_answer(question)\n",
    "User: Hello\n\nAssistant: Hello! What are you working on?",
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Ends a turn with `<|im_end|>`, which is not the tokenizer's own end of sequence."""

TURNS = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Starts with the beginning of sequence, calls the assistant `model` and trims what it says."""


HERMES = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['reasoning_content'] is defined and loop.last %}"
    "{{ '<think>\n' + message['reasoning_content'] + '\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ ('\n' if message['content'] or not loop.first else '') + '<tool_call>\n{\"name\": \"'"
    " + call['function']['name'] + '\", \"arguments\": ' + (call['function']['arguments'] | tojson)"
    " + '}\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Spells thinking and tool calls out as text; thinking of earlier turns is left out."""

MARKED = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% if message['reasoning_content'] is defined %}"
    "{{ '<unused_open>' + message['reasoning_content'] + '<unused_close>' }}{% endif %}"
    "{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ 'CALL ' + call['function']['name'] + ' WITH ' + (call['function']['arguments'] | tojson) + ';' }}"
    "{% endfor %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)
"""Marks thinking by tokens of its own (`sentencepiece(..., extra=...)`) and has another form of calls."""


def byte_level(
    folder: Path,
    *,
    chat_template: str | None = CHATML,
    eos: str | None = "<|endoftext|>",
    bos: str | None = None,
    normalizer: normalizers.Normalizer | None = None,
    vocab_size: int = 400,
) -> Path:
    """A byte-level BPE; `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` and `<|pad|>` are ids 0 to 3.

    With `bos`, plain text is encoded with that token before it.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    _train(backend, special, vocab_size, sorted(pre_tokenizers.ByteLevel.alphabet()))
    return _save(backend, folder, eos=eos, bos=bos, pad="<|pad|>", chat_template=chat_template)


def sentencepiece(
    folder: Path,
    *,
    chat_template: str | None = TURNS,
    eos: str | None = "</s>",
    bos: str | None = "<s>",
    dummy_prefix: bool = False,
    vocab_size: int = 560,
    extra: Sequence[str] = (),
) -> Path:
    """A BPE in SentencePiece's spelling: `<pad>`, `</s>`, `<s>`, `<unk>`, the two turn tokens, then the
    256 byte tokens from id 6 on, then characters and pieces.

    With `dummy_prefix`, a space is put before the first word of a text, as Llama 2 does. `extra` tokens are
    added behind all others, as tokens that are not special.
    """
    special = ["<pad>", "</s>", "<s>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    spaces = normalizers.Replace(" ", "▁")
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = spaces
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    _train(backend, special + byte_tokens, vocab_size, [])
    state = json.loads(backend.to_str())
    # The trainer can only reserve ids by adding tokens; byte tokens must not be matched in text.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    backend = Tokenizer.from_str(json.dumps(state))
    if dummy_prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    strip = [decoders.Strip(" ", 1, 0)] if dummy_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in extra])
    return _save(backend, folder, eos=eos, bos=bos, pad="<pad>", chat_template=chat_template)


def tiny_llama(folder: Path, vocab_size: int, seed: int, layers: int = 2, hidden: int = 32) -> Path:
    """Save a random Llama (float32, safetensors) beside the tokenizer of `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = {name: settings.get(f"{name}_token") or "" for name in ("eos", "bos", "pad")}
    ids = {
        name: backend.token_to_id(token["content"] if isinstance(token, dict) else token)
        for name, token in names.items()
    }
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        # Wide enough that the model prefers some tokens: at 0.02 every distribution is nearly uniform.
        initializer_range=0.2,
        tie_word_embeddings=False,
        eos_token_id=ids["eos"],
        bos_token_id=ids["bos"],
        pad_token_id=ids["pad"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def byte_level_model(path: Path, seed: int = 0, **options: Any) -> Path:
    """A random Llama with the byte-level tokenizer; `options` are those of `byte_level`."""
    return tiny_llama(byte_level(path, **options), _num_ids(path), seed)


def sentencepiece_model(path: Path, seed: int = 0, **options: Any) -> Path:
    """A random Llama with the SentencePiece tokenizer; `options` are those of `sentencepiece`."""
    return tiny_llama(sentencepiece(path, **options), _num_ids(path), seed)


def model_around(tokenizer: Path, folder: Path, seed: int = 0) -> Path:
    """A random Llama with the tokenizer and template of another folder, such as a real model's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)
    return tiny_llama(folder, _num_ids(folder), seed)


def _num_ids(folder: Path) -> int:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True)


def _train(backend: Tokenizer, reserved: Sequence[str], vocab_size: int, alphabet: list[str]) -> None:
    """Learn merges of the corpus; `reserved` take the first ids."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in reserved],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)


def _save(
    backend: Tokenizer,
    folder: Path,
    *,
    eos: str | None,
    bos: str | None,
    pad: str,
    chat_template: str | None,
) -> Path:
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, backend.token_to_id(bos))]
        )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "bos_token": bos,
        "pad_token": pad,
        "chat_template": chat_template,
    }
    kept = {key: value for key, value in settings.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return folder
