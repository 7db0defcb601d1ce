"""A model's layers as one graph of torch's compiler, for the steps of decoding.

Between the products of a layer stand some forty small operations, each called from Python. Compiled they are
seven kernels. One graph serves all layers of a kind, for any number of rows and columns: a layer is given its
own buffers of keys and values in place of the whole cache, so nothing in it knows which one it is. Everything
around the layers, masks and rotations among it, stays the model's own.

What is compiled is tried on a few tokens against the model as it is; where that fails, for want of a C++
compiler, say, or because a layer cannot be traced, nothing is compiled and a warning says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from subprocess import SubprocessError
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast, no_type_check
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dragoman.models.traced import PRODUCT
from dragoman.rollout.grouped import grouped_attention
from dragoman.rollout.slots import SlotCache, SlotLayer, native_cache, plain_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_INDEX = "layer_idx"
_TOKENS = 5
"""Of a context in the trial."""
_MADE = ((1, 13, 37, 53), (11, 13, 37, 53))
"""Rows, slots, columns in use and in all, for which graphs are made. A size that a model has too, such as its
number of heads, would be taken for that."""
_CHECKED = ((1, 2, 19, 29), (2, 7, 23, 31))
"""Sizes that these graphs must serve as well."""
_REASON = 300
"""Characters of what the compiler says that a warning repeats."""


@no_type_check
class _OneLayer:
    """The cache as one layer sees it while it is traced: its own buffers, whatever index it asks for."""

    def __init__(self, keys: Tensor, values: Tensor, end: int) -> None:
        self._keys, self._values, self._end = keys, values, end

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column in front of `end`, and return all up to there."""
        rows, end = len(keys), self._end
        self._keys[:rows, :, end - 1 : end] = keys
        self._values[:rows, :, end - 1 : end] = values
        return self._keys[:rows, :, :end], self._values[:rows, :, :end]


@no_type_check  # what is traced is traced with its decorators
def _step(
    layer: Any, keys: Tensor, values: Tensor, end: int, place: int | str, args: Any, kwargs: Any
) -> Any:
    """One layer on one token a row; `place` says which argument is the cache."""
    own = _OneLayer(keys, values, end)
    if isinstance(place, str):
        return type(layer).forward(layer, *args, **{**kwargs, place: own})
    return type(layer).forward(layer, *args[:place], own, *args[place:], **kwargs)


def _joined(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    """Compile by inductor what Dynamo has traced, products that occur several times left out but once."""
    known: dict[Any, torch.fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target is not PRODUCT:
            continue
        first = known.setdefault(node.args, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)
    graph.recompile()
    return torch._dynamo.lookup_backend("inductor")(graph, inputs)


def compiled_layers(base: PreTrainedModel) -> CompiledLayers | None:
    """A model's layers, compiled and tried when first asked for; None where that does not work."""
    if base not in _known:
        _known[base] = CompiledLayers(base)
    found = _known[base]
    return found if found.works else None


class CompiledLayers:
    """The layers of one model, compiled where that works."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._layers = _layers(base)
        self.works = False
        self._config = base.config.get_text_config()
        # A code object of its own, as the compiler keeps graphs, and counts them, by code object
        own = FunctionType(_step.__code__.replace(), globals(), _step.__name__)
        self._run = torch.compile(own, backend=_joined, dynamic=True, fullgraph=True)
        problem = self._problem(base)
        if problem is not None:
            logger.warning("layers of %s are not compiled: %s", type(base).__name__, problem)
        self.works = problem is None

    @contextmanager
    def stepping(self, cache: SlotCache) -> Iterator[None]:
        """Within the block, a layer that is given this cache is run compiled."""
        with ExitStack() as stack:
            stack.enter_context(grouped_attention(self._config))
            if self.works:
                # The trial has made all graphs there are, and other sizes were tried under this stance: only
                # what tells graphs apart is looked at
                stack.enter_context(torch.compiler.set_stance("default", skip_guard_eval_unsafe=True))
            for number, layer in self._layers.items():
                forward = partial(self._forward, layer, number, cache)
                stack.enter_context(_set(layer, "forward", forward))
                stack.enter_context(_numbered(layer, 0))
            yield

    def _forward(self, layer: Any, number: int, cache: SlotCache, *args: Any, **kwargs: Any) -> Any:
        places: list[int | str] = [place for place, value in enumerate(args) if value is cache]
        places += [name for name, value in kwargs.items() if value is cache]
        if len(places) != 1:
            with _numbered(layer, number):
                return type(layer).forward(layer, *args, **kwargs)
        place, own = places[0], cast("SlotLayer", cache.layers[number])
        end = own.length + 1
        args = tuple(value for value in args if value is not cache)
        kwargs = {name: value for name, value in kwargs.items() if value is not cache}
        result = self._run(layer, *own.buffers(), end, place, args, kwargs)
        own.length = end
        return result

    def _problem(self, base: PreTrainedModel) -> str | None:
        """Why compiled layers cannot be had, or do not give what the model gives for one row and several."""
        if not self._layers:
            return "the model does not say which they are"
        if any("forward" in vars(layer) for layer in self._layers.values()):
            return "they have been wrapped by another library"
        try:
            for sizes in _MADE + _CHECKED:
                self.works = sizes in _CHECKED
                expected, found = (_trial(base, *sizes, by) for by in (None, self))
                if not _is_close(found, expected):
                    return "compiled they give other values"
        except (RuntimeError, ImportError, OSError, SubprocessError) as error:
            return " ".join(str(error).split())[:_REASON] or type(error).__name__
        return None


def _is_close(found: Float[Tensor, "B V"], expected: Float[Tensor, "B V"]) -> bool:
    """To half of the digits, where a model does not rule a token out."""
    known = expected.isfinite()
    if not torch.equal(known, found.isfinite()):
        return False
    error = (found[known] - expected[known]).norm()
    return bool(error <= torch.finfo(expected.dtype).eps ** 0.5 * expected[known].norm())


def _layers(base: PreTrainedModel) -> dict[int, nn.Module]:
    """The layers by their number in the cache; none where it is not known which they are."""
    num_layers = len(native_cache(base.config).layers)
    for modules in base.modules():
        if not isinstance(modules, nn.ModuleList) or len(modules) != num_layers:
            continue
        if all(_numbers(layer) == {number} for number, layer in enumerate(modules)):
            return dict(enumerate(modules))
    return {}


def _numbers(layer: nn.Module) -> set[int]:
    return {vars(part)[_INDEX] for part in layer.modules() if _INDEX in vars(part)}


def _trial(
    base: PreTrainedModel, rows: int, slots: int, end: int, capacity: int, compiled: CompiledLayers | None
) -> Float[Tensor, "B V"]:
    """Logits of one step behind a few tokens."""
    num_ids = base.config.get_text_config().vocab_size
    ids = torch.arange(1, 1 + rows * (_TOKENS + 1), device=base.device).view(rows, -1) % num_ids
    positions = torch.arange(_TOKENS + 1, device=base.device).expand(rows, -1)
    mask = torch.ones_like(ids)
    read = plain_cache(len(native_cache(base.config).layers))
    context = slice(0, _TOKENS)
    base(
        input_ids=ids[:, context],
        attention_mask=mask[:, context],
        position_ids=positions[:, context],
        past_key_values=read,
        use_cache=True,
    )
    cache = SlotCache(len(read.layers), slots)
    cache.reserve(read, 0, end - 1, capacity)
    for row in range(rows):
        cache.write(read, row, _TOKENS)
    with ExitStack() as stack:
        if compiled is not None:
            stack.enter_context(compiled.stepping(cache))
        output = base(
            input_ids=ids[:, _TOKENS:],
            attention_mask=nn.functional.pad(mask, (end - _TOKENS - 1, 0)),
            position_ids=positions[:, _TOKENS:],
            past_key_values=cache,
            use_cache=True,
        )
    logits: Tensor = output.logits[:, -1]
    return logits


@contextmanager
def _set(module: Any, name: str, value: object) -> Iterator[None]:
    """An attribute of one module, not of its class."""
    had, before = name in vars(module), vars(module).get(name)
    vars(module)[name] = value
    try:
        yield
    finally:
        if had:
            vars(module)[name] = before
        else:
            del vars(module)[name]


@contextmanager
def _numbered(layer: nn.Module, number: int) -> Iterator[None]:
    """A layer that takes itself for another one of its model."""
    with ExitStack() as stack:
        for part in layer.modules():
            if _INDEX in vars(part):
                stack.enter_context(_set(part, _INDEX, number))
        yield


_known: WeakKeyDictionary[PreTrainedModel, CompiledLayers] = WeakKeyDictionary()
