"""Finds a model's decoder layers, and the KV cache of each.

The search goes by structure. A stack is a ``ModuleList`` or ``Sequential`` of layers, and a layer is a module that has
parts of its own and parameters. So experts are no stack of the decoder, for their list is inside a layer; nor is a
scoring head, for its members are single operators. The configuration decides only between several stacks. What is left
open the caller decides by ``layers=``: nothing is chosen by weight.

Nothing is changed on the model, and no library is imported: Hugging Face is known by its names alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from djinn.core import LayersNotFound
from djinn.state.containers import is_cache
from djinn.state.static import elements_of, instance_dict

# The depth of a decoder in a configuration. The first two are those of models that have an encoder as well.
_DEPTHS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def find_layers(model: nn.Module, layers: Iterable[nn.Module] | None = None) -> list[nn.Module]:
    """The model's decoder layers in order of execution, or ``layers`` if the caller names them.

    Source: the outermost stack below ``get_decoder()``, or in the whole model without that. If there are several, the
    one that is as deep as its configuration says. Raises :class:`LayersNotFound` if none or several are left, with what
    to type, or if ``layers`` are not parts of the model, or one is inside another.
    """
    if layers is not None:
        named = list(layers)
        if not named or not set(named) <= set(model.modules()):
            raise LayersNotFound("layers= must name modules of the model that is given to the runtime")
        inside = {part for layer in named for part in layer.modules() if part is not layer}
        if inside & set(named):
            raise LayersNotFound("layers= must name no module that is inside another of them")
        return named
    found = [(stack, config, decoder) for decoder in _decoders(model) for stack, config in _stacks(decoder)]
    if len(found) > 1:
        found = [one for one in found if len(_members(one[0])) == _depth(one[1])] or found
    if len(found) > 1:
        # A part with a configuration of its own may be as deep as that says, and is no decoder: an image encoder.
        found = [one for one in found if one[1] is getattr(one[2], "config", None)] or found
    if len(found) != 1:
        raise LayersNotFound(_refusal(model, [stack for stack, _, _ in found]))
    return _members(found[0][0])


def names_of(model: nn.Module, modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """The paths of ``modules`` in ``model``, as ``named_modules`` gives them."""
    names = {module: name for name, module in model.named_modules()}
    return tuple(names[module] for module in modules)


def _decoders(model: nn.Module) -> Iterator[nn.Module]:
    """The decoders of the outermost modules that know theirs; ``model`` itself if there are none with a stack."""
    owners: list[Any] = list(_outermost(model, lambda module: callable(getattr(module, "get_decoder", None))))
    decoders = [decoder for owner in owners if isinstance(decoder := owner.get_decoder(), nn.Module)]
    with_stacks = [decoder for decoder in decoders if any(True for _ in _stacks(decoder))]
    yield from with_stacks or [model]


def _outermost(module: nn.Module, wanted: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    if wanted(module):
        yield module
    else:
        for child in module.children():
            yield from _outermost(child, wanted)


def _stacks(module: nn.Module, config: object = None) -> Iterator[tuple[nn.Module, object]]:
    """The outermost stacks in ``module``, each with the innermost configuration around it.

    None of them is inside a member of another.
    """
    config = getattr(module, "config", config)
    if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) and all(map(_is_layer, _members(module))):
        yield module, config
    else:
        for child in module.children():
            yield from _stacks(child, config)


def _members(stack: nn.Module) -> list[nn.Module]:
    return [member for member in stack._modules.values() if member is not None]  # ``children()`` skips repeated ones


def _is_layer(member: nn.Module) -> bool:
    """Whether ``member`` may be a layer: it has parts and parameters, and is no model with embeddings of its own."""
    has_parts = any(True for _ in member.children()) and any(True for _ in member.parameters())
    return has_parts and not callable(getattr(member, "get_input_embeddings", None))


def _depth(config: object) -> int | None:
    """The number of decoder layers that ``config`` names."""
    depths = (getattr(config, name, None) for name in _DEPTHS)
    return next((depth for depth in depths if isinstance(depth, int)), None)


def _refusal(model: nn.Module, stacks: Sequence[nn.Module]) -> str:
    kind = type(model).__name__
    if not stacks:
        return (
            f"{kind} has no stack of decoder layers: no ModuleList or Sequential whose members all have parts of "
            "their own and parameters. Name the layers in order: layers=[model.first, model.second]"
        )
    listed = (
        f"  layers={_expression(name)}  ({len(_members(stack))} of {type(_members(stack)[0]).__name__})"
        for name, stack in zip(names_of(model, stacks), stacks, strict=True)
    )
    return "\n".join([f"{kind} has {len(stacks)} stacks that may be its decoder layers. Name the one:", *listed])


def _expression(name: str) -> str:
    """What to type for the module at path ``name`` of a model in the variable ``model``."""
    parts = name.split(".") if name else []
    if not all(part.isidentifier() or part.isdigit() for part in parts):
        return f"model.get_submodule({name!r})"
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)


class KvLayers:
    """Maps objects of a KV cache to their decoder layers (1 .. N) and names.

    Source: a ``transformers`` cache keeps one object per layer in ``layers``. Its index is the ``layer_idx`` of one
    submodule of the decoder layer. Layers without a ``layer_idx`` are taken in order. An encoder-decoder cache has two
    such caches. transformers itself is not imported.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._number_at: dict[int, int] = {}
        self._read_by: dict[int, frozenset[int]] = {}
        for number, layer in enumerate(layers, start=1):
            carried = {index for part in layer.modules() if isinstance(index := vars(part).get("layer_idx"), int)}
            own = next(iter(carried)) if len(carried) == 1 else number - 1
            self._number_at[own] = number
            self._read_by[number] = frozenset({own, *carried})

    def read_by(self, number: int) -> frozenset[int]:
        """The indices of a cache's entries that decoder layer ``number`` may read: all that its modules carry."""
        return self._read_by[number]

    def finder(self) -> Callable[[object], tuple[int, str] | None]:
        """A lookup function for one walk: it learns a cache's layers when the walk meets the cache.

        Only the first cache that the walk meets is the model's own KV, for the walk begins with the layer's arguments.
        The cache of another model, as in assisted generation, is treated like any other object.
        """
        found: dict[int, tuple[int, str]] = {}

        def kv_of(obj: object) -> tuple[int, str] | None:
            if not found and is_cache(type(obj)):
                for cache, part in _caches_in(obj):
                    for index, layer in enumerate(elements_of(_attributes(cache).get("layers"))):
                        if index in self._number_at:
                            number = self._number_at[index]
                            found[id(layer)] = number, f"kv.{number}{part}"
            return found.get(id(obj))

        return kv_of


def _caches_in(cache: object) -> list[tuple[object, str]]:
    """Return the caches in ``cache`` that keep layers, each with the suffix of its names."""
    attributes = _attributes(cache)
    if "self_attention_cache" in attributes:
        return [(attributes["self_attention_cache"], ""), (attributes.get("cross_attention_cache"), ".cross")]
    return [(cache, "")]


def _attributes(obj: object) -> dict[str, Any]:
    return instance_dict(obj) or {}
