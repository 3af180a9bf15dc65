"""Which values may be state of a call, that a change in place shows, and that copies are as the value was."""

import collections
import dataclasses

import pytest
import torch
from torch import nn
from transformers import BatchEncoding, DynamicCache, LlamaConfig
from transformers.modeling_outputs import BaseModelOutput

from djinn.state.module_values import Copies, Kind, Snapshot, kind_of

KEPT = 1 << 20


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: object = None


@dataclasses.dataclass(slots=True)
class Slotted:
    left: torch.Tensor
    right: object = None


Named = collections.namedtuple("Named", "left right")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.ones(1), Kind.STATE),
        ([torch.ones(1), len], Kind.STATE),
        ({"a": (1, [torch.ones(1)])}, Kind.STATE),
        (Pair(torch.ones(1)), Kind.STATE),
        (Slotted(torch.ones(1)), Kind.STATE),
        (BatchEncoding({"a": torch.ones(1)}), Kind.STATE),
        (DynamicCache(), Kind.STATE),
        (None, Kind.PLAIN),
        (torch.float16, Kind.PLAIN),
        ([], Kind.PLAIN),
        ({"a": (1, "b")}, Kind.PLAIN),
        (nn.Parameter(torch.ones(1)), Kind.OTHER),
        ([nn.Parameter(torch.ones(1))], Kind.OTHER),
        (nn.Linear(1, 1), Kind.OTHER),
        (LlamaConfig(), Kind.OTHER),
        (print, Kind.OTHER),
        (object(), Kind.OTHER),
    ],
)
def test_the_kind_of_a_value(value, kind):
    """Tensors, caches and containers of tensors are state; parameters, modules, code and settings are not."""
    assert kind_of(value) is kind


def containers():
    one, two = torch.ones(2), torch.full((2,), 2.0)
    counts = collections.defaultdict(list, {"a": [one]})
    cache = DynamicCache()
    cache.update(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 0)
    return {
        "list": ([one, [two]], lambda value: value[1].append(one)),
        "dict": ({"a": one, "b": two}, lambda value: value.pop("b")),
        "ordered": (collections.OrderedDict(a=one, b=two), lambda value: value.move_to_end("a")),
        "default": (counts, lambda value: value["c"].append(two)),
        "deque": (collections.deque([one, two], maxlen=2), lambda value: value.append(one)),
        "tuple": ((one, [two]), lambda value: value[1].clear()),
        "named tuple": (Named(one, {"a": two}), lambda value: value.right.clear()),
        "data class": (Pair(one, two), lambda value: setattr(value, "right", None)),
        "slots": (Slotted(one, two), lambda value: setattr(value, "right", None)),
        "struct sequence": (torch.arange(3.0).topk(2), lambda value: value.values.add_(1)),
        "batch": (BatchEncoding({"a": one}), lambda value: value.update(b=two)),
        "output": (BaseModelOutput(last_hidden_state=one), lambda value: setattr(value, "attentions", (two,))),
        "cache": (cache, lambda value: value.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2), 0)),
        "tensor": ([one], lambda value: value[0].add_(1)),
        "storage": ([one], lambda value: value[0].set_(torch.zeros(2))),
    }


@pytest.mark.parametrize("name", containers())
def test_a_change_in_place_shows_and_a_copy_is_as_the_value_was(name):
    """A snapshot sees the change; the copy has the type, elements and bytes from before, and shares nothing."""
    value, change = containers()[name]
    untouched, _ = containers()[name]
    snapshot = Snapshot(value, kept_bytes=KEPT)
    assert not snapshot.has_changed()
    change(value)
    assert snapshot.has_changed()
    copy = Copies().of(snapshot)
    assert type(copy) is type(untouched)
    assert not Snapshot(copy).has_changed()
    assert flat(copy) == flat(untouched)
    change(copy)
    assert flat(copy) != flat(untouched)


def flat(value):
    """Types, keys and bytes, in order."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return [
            type(value),
            [(key, flat(part)) for key, part in (*value.items(), *getattr(value, "__dict__", {}).items())],
        ]
    if isinstance(value, (list, tuple, collections.deque)):
        return [type(value), getattr(value, "maxlen", None), [flat(part) for part in value]]
    if isinstance(value, Slotted):
        return flat((value.left, value.right))
    of_transformers = "transformers." in type(value).__module__
    return flat(vars(value)) if isinstance(value, Pair) or of_transformers else value


def test_copies_share_what_the_values_share():
    """Views of one storage, and one tensor at two namespaces, are so in the copies, with their strides and offsets."""
    whole = torch.arange(12.0).view(3, 4)
    values = {"whole": whole, "row": whole[1], "transposed": whole.T, "again": [whole]}
    copy = Copies().of(Snapshot(values, kept_bytes=KEPT))
    copy["row"].fill_(-1)
    assert copy["again"][0] is copy["whole"]
    assert copy["whole"][1].tolist() == copy["transposed"][:, 1].tolist() == [-1.0] * 4
    assert whole[1].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_writes_that_torch_does_not_count_show_in_inference_mode():
    """A tensor made in inference mode has no version; its bytes are compared."""
    with torch.inference_mode():
        tensor = torch.zeros(2)
        snapshot = Snapshot(tensor, kept_bytes=KEPT)
        assert not snapshot.has_changed()
        tensor.add_(1)
        assert snapshot.has_changed()
        copy = Copies().of(snapshot)
    assert copy.is_inference()
    assert copy.tolist() == [0.0, 0.0]
