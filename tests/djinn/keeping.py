"""Models that keep a call's state in attributes of modules, one of each kind."""

import collections
import dataclasses

import torch
from torch import nn
from transformers import DynamicCache

WIDTH, LAYERS = 8, 3


class Replacing(nn.Module):
    """Sets an attribute to a new tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.last = None

    def remember(self, x):
        earlier = torch.zeros_like(x) if self.last is None else self.last
        self.last = earlier * 0.5 + x
        return earlier

    def forward(self, x):
        return torch.tanh(self.linear(x) + self.remember(x))


class Deleting(Replacing):
    """Sets an attribute that was not there, and deletes it in the next pass."""

    def __init__(self):
        super().__init__()
        del self.last

    def remember(self, x):
        if hasattr(self, "last"):
            earlier = self.last
            del self.last
            return earlier
        self.last = x * 2
        return x


class Writing(Replacing):
    """Writes into a buffer that is saved with the weights."""

    persistent = True

    def __init__(self):
        super().__init__()
        del self.last
        self.register_buffer("last", torch.ones(1, WIDTH), persistent=self.persistent)

    def remember(self, x):
        earlier = self.last.clone()
        self.last.mul_(0.5).add_(x)
        return earlier


class WritingOwn(Writing):
    """Writes into a buffer that is not saved."""

    persistent = False


class Registering(Replacing):
    """Replaces a buffer and counts beside it, as dynamic rope does."""

    def __init__(self):
        super().__init__()
        del self.last
        self.register_buffer("last", torch.ones(1, WIDTH), persistent=False)
        self.seen = 0

    def remember(self, x):
        earlier = self.last
        self.seen += 1
        self.register_buffer("last", earlier * 0.5 + x * self.seen, persistent=False)
        return earlier


class Storing(Replacing):
    """Writes a row of a large tensor that was allocated beforehand, and reads it by a view."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1 << 14, WIDTH)
        self.rows = self.last[:64]
        self.filled = 0

    def remember(self, x):
        self.last[self.filled] = x[0]
        self.filled += 1
        return self.rows.sum(0, keepdim=True)


class Listing(Replacing):
    """Appends to a list, and to a deque in a dictionary."""

    def __init__(self):
        super().__init__()
        self.last = []
        self.by_name = collections.OrderedDict(deque=collections.deque(maxlen=2))

    def remember(self, x):
        self.last.append(x)
        self.by_name["deque"].append((x * 3, {"a": x}))
        return sum(self.last) + self.by_name["deque"][0][1]["a"]


@dataclasses.dataclass
class Record:
    """A data class with a tensor."""

    total: torch.Tensor
    count: int = 0


class Recording(Replacing):
    """Writes into a data class, and changes its fields."""

    def __init__(self):
        super().__init__()
        self.last = Record(torch.zeros(1, WIDTH))

    def remember(self, x):
        earlier = self.last.total.clone()
        self.last.count += 1
        self.last.total.add_(x * self.last.count)
        return earlier


class Caching(Replacing):
    """Updates a cache of transformers that was made with the model."""

    def __init__(self):
        super().__init__()
        self.last = DynamicCache()

    def remember(self, x):
        keys, _ = self.last.update(x[None, None], x[None, None], 0)
        return keys.sum(2)[0]


class Counting(Replacing):
    """Counts the passes in a number, and keeps no tensor."""

    def __init__(self):
        super().__init__()
        self.last = 0

    def remember(self, x):
        self.last += 1
        return x * self.last


KINDS = (Replacing, Deleting, Writing, WritingOwn, Registering, Storing, Listing, Recording, Caching)


class Stack(nn.Module):
    """Layers of one kind; counts the passes in a number, above the layers."""

    def __init__(self, kind):
        super().__init__()
        self.layers = nn.ModuleList(kind() for _ in range(LAYERS))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        x = x * self.passes
        for layer in self.layers:
            x = layer(x)
        return x


def stack(kind):
    """Make a stack with the same weights each time."""
    torch.manual_seed(0)
    return Stack(kind).eval()


def steps(model, x, count=4):
    """The outputs of ``count`` passes, each of which reads what the earlier ones left."""
    outputs = []
    for _ in range(count):
        x = model(x)
        outputs.append(x)
    return outputs


def kept(model):
    """What the modules keep, copied: plain data and tensors, by path."""
    found = {}
    for path, module in model.named_modules():
        for name, value in [*vars(module).items(), *module._buffers.items()]:
            if not name.startswith("_") and name not in ("training", "forward"):
                found.update(_leaves(f"{path}.{name}", value))
    return found


def _leaves(name, value):
    if isinstance(value, torch.Tensor):
        return {name: value.clone()}
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, (list, tuple, collections.deque)):
        parts = list(enumerate(value))
    elif dataclasses.is_dataclass(value) or "cache" in type(value).__module__:
        parts = list(vars(value).items())
    else:
        return {name: value}
    return {key: leaf for label, part in parts for key, leaf in _leaves(f"{name}.{label}", part).items()}


def tensors_in(value):
    """The tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value) or "cache" in type(value).__module__:
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    parts = value if isinstance(value, (list, tuple, collections.deque)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def same(left, right):
    """Whether two results of :func:`kept` are equal in every bit."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) if isinstance(left[name], torch.Tensor) else left[name] == right[name]
        for name in left
    )
