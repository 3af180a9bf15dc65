"""Places of tensors in caches, lists and dicts: which there are, what they are called, and what is in them."""

import pytest
import torch
import transformers

from djinn.state.places import checked_roots, places_in


def names(*roots):
    return sorted(place.name for place in places_in(roots)[0])


def filled(cache, layers=2):
    for layer in range(layers):
        cache.update(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), layer)
    return cache


def test_places_are_named_as_the_caller_would_write_them():
    """The only cache is ``cache``; several objects are numbered."""
    cache = filled(transformers.DynamicCache())
    assert names(cache) == [f"cache.layers[{layer}].{part}" for layer in (0, 1) for part in ("keys", "values")]
    assert names(cache, [])[0] == "adopt[0].layers[0].keys"
    assert names([torch.ones(1)], {"a": [torch.ones(1)]}) == ["adopt[0][0]", "adopt[1]['a'][0]"]


def test_both_parts_of_an_encoder_decoder_cache_have_places():
    """An encoder-decoder cache keeps two caches in attributes."""
    parts = [filled(transformers.DynamicCache(), layers=1) for _ in range(2)]
    found = names(transformers.EncoderDecoderCache(*parts))
    assert found[0] == "cache.cross_attention_cache.layers[0].keys"
    assert found[-1] == "cache.self_attention_cache.layers[0].values"
    assert len(found) == 4


def test_states_by_number_have_places():
    """Layers of linear attention keep their states in dicts."""
    config = transformers.MambaConfig(hidden_size=8, num_hidden_layers=1, state_size=2)
    cache = transformers.DynamicCache(config=config)
    cache.layers[0].conv_states[0] = torch.ones(1)
    assert "cache.layers[0].conv_states[0]" in names(cache)


def test_what_cannot_hold_a_guard_has_no_place():
    """Tuples, sets, attributes of other objects and keys of dicts."""

    class Holder:
        def __init__(self):
            self.tensor = torch.ones(1)

    tensor = torch.ones(1)
    assert names([(tensor,), {tensor}, Holder(), {tensor: 1, "a": tensor}]) == []
    assert names([(tensor,), tensor]) == ["adopt[0][1]"]


def test_an_object_in_two_roots_or_in_itself_is_met_once():
    """Cycles and repetitions end."""
    inner = [torch.ones(1)]
    outer = [inner, inner]
    outer.append(outer)
    assert len(names(outer, inner)) == 1


@pytest.mark.parametrize("container", [list, dict])
def test_what_is_put_is_what_is_got(container):
    """A place reads and writes its entry, and knows when it is gone."""
    first, second = torch.ones(1), torch.zeros(1)
    root = [first] if container is list else {0: first}
    (place,) = places_in([root])[0]
    assert place.get() is first
    place.putting(second)()
    assert root[0] is second
    root.clear()
    assert place.get() is None
    assert place.now_of(second) is None


def test_an_entry_of_a_list_is_found_where_it_went():
    """Entries before it may come and go."""
    tensor = torch.ones(1)
    root = [tensor]
    (place,) = places_in([root])[0]
    root.insert(0, "new")
    place.now_of(tensor).putting("put")()
    assert root == ["new", "put"]


@pytest.mark.parametrize("root", [torch.ones(1), (torch.ones(1),), {1}, object(), transformers])
def test_what_has_no_places_is_refused_by_name(root):
    """A tensor alone, a tuple, any other object."""
    with pytest.raises(TypeError, match=f"a {type(root).__name__} cannot be adopted"):
        checked_roots([root])


def test_a_cache_that_is_not_in_a_list_is_refused():
    """``adopt=cache`` instead of ``adopt=[cache]``."""
    with pytest.raises(TypeError, match="must be a list of caches, not a DynamicCache"):
        checked_roots(transformers.DynamicCache())
