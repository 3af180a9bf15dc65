"""The state of a session as a notebook shows it: each number is that of plain torch on the same tensor."""

import threading

import pytest
import torch
from tests.djinn.tables import tables
from tests.programs import greedy, parked, prefill

import djinn
from djinn.state import state_page

pytestmark = pytest.mark.usefixtures("without_climb")

HIDDEN, HEADS, HEAD = 64, 2, 16


def columns(page, number=0):
    """The rows of a table by their first cell, each as a dict by the head; without what goes across the table."""
    head, *rows = tables(page)[number]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)}


def norm(tensor):
    return f"{tensor.double().norm():.4g}"


@pytest.fixture
def plain(llama, input_ids):
    """Hidden states after layer 3 and the KV cache of layers 1 .. 3, as hooks find them in a run without Djinn."""
    found = {}

    def look(module, args, kwargs, output):
        found["hidden_states"] = output.clone()
        for number, layer in enumerate(kwargs["past_key_values"].layers[:3], 1):
            found[f"kv.{number}.keys"], found[f"kv.{number}.values"] = layer.keys.clone(), layer.values.clone()

    handle = llama.model.layers[2].register_forward_hook(look, with_kwargs=True)
    llama(input_ids, use_cache=True)
    handle.remove()
    return found


def test_every_number_is_that_of_plain_torch(runtime, llama, input_ids, plain):
    """Shape, dtype, layer, bytes and norm of each tensor, and norm and spread of each token's hidden state."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    page = session.state._repr_html_()
    shown = columns(page)
    assert list(shown) == list(session.state)
    for name, tensor in plain.items():
        assert shown[name] == {
            "name": name,
            "layer": "-" if name == "hidden_states" else name.split(".")[1],
            "shape": str(list(tensor.shape)),
            "dtype": "float32",
            "where": "host",
            "bytes": f"{tensor.nbytes:,}",
            "norm": norm(tensor),
        }
    assert shown["position_embeddings.0"]["layer"] == "-"
    sizes = session.storage_sizes
    assert f"{len(shown)} tensors in {len(sizes)} storages of {sum(sizes):,} bytes</p>" in page
    tokens = columns(page, 1)
    assert list(tokens)[:3] == ["[0, 0]", "[0, 1]", "[0, 2]"]
    assert list(tokens)[3:] == [f"[1, {token}]" for token in range(18, 24)]
    assert ["… 39 more tokens"] in tables(page)[1]
    for place, token in tokens.items():
        vector = plain["hidden_states"][tuple(map(int, place.strip("[]").split(",")))].double()
        mean = vector.sum() / HIDDEN
        assert token["norm"] == norm(vector)
        assert token["spread"] == f"{((vector - mean) ** 2).sum().div(HIDDEN).sqrt():.4g}"


def test_an_edit_is_in_the_numbers(runtime, llama, input_ids, plain):
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    session.state["hidden_states"][0, 1] = float("nan")
    session.state["kv.2.keys"].mul_(2)
    page = session.state._repr_html_()
    assert columns(page)["hidden_states"]["norm"] == "nan"
    assert columns(page)["kv.2.keys"]["norm"] == norm(plain["kv.2.keys"] * 2)
    assert columns(page, 1)["[0, 1]"] == {"hidden_states": "[0, 1]", "norm": "nan", "spread": "nan"}
    assert columns(page, 1)["[0, 0]"]["norm"] == norm(plain["hidden_states"][0, 0])


@pytest.mark.parametrize("wait", [None, {"force": False}, {"keep": "frontier"}], ids=["paused", "idle", "frontier"])
def test_to_look_moves_nothing(runtime, llama, input_ids, wait):
    """What is on the device stays there, has no numbers, and the page says why; what is in host memory has them."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2, visit=2)
    if wait is not None:
        session.io_wait(**wait)
    before = session.device_bytes, session.host_bytes
    page = session.state._repr_html_()
    assert (session.device_bytes, session.host_bytes) == before
    shown = columns(page)
    assert (shown["hidden_states"]["where"], shown["hidden_states"]["norm"]) == ("device", "-")
    assert len(tables(page)) == 2  # no tokens, but what is left on the device
    assert "host memory, as after io_wait()" in page
    in_host = {name for name, row in shown.items() if row["where"] == "host"}
    assert bool(in_host) == (before[1] > 0)
    for name in in_host & {"kv.1.keys", "kv.6.values"}:
        assert shown[name]["norm"] != "-"


def test_what_is_on_the_disk_is_not_read_back(llama, input_ids, tmp_path):
    with djinn.Runtime(llama, host_memory_bytes=128 << 10, disk_folder=tmp_path) as runtime:
        first, second = (parked(runtime, 3, greedy, llama, input_ids, 2) for _ in range(2))
        first.io_wait()
        second.io_wait()
        assert first.disk_bytes > 0
        shown = columns(first.state._repr_html_())
        assert first.disk_bytes > 0
        assert (shown["kv.1.keys"]["where"], shown["kv.1.keys"]["norm"]) == ("disk", "-")


def test_a_view_of_a_session_that_has_gone_on_says_so(runtime, llama, input_ids):
    """No number of a void view is shown, and nothing is raised."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    view = session.state
    session.step(30)
    page = view._repr_html_()
    assert {(row["where"], row["norm"]) for row in columns(page).values()} == {("-", "-")}
    assert "this view of the state is void" in page
    session.resume()
    session.result(30)
    assert "this one is finished" in view._repr_html_()


def test_what_is_left_behind_is_told(runtime, llama, input_ids):
    """With its bytes and the reason, escaped."""
    session = parked(runtime, 3, prefill, llama, input_ids)
    session.io_wait()
    [one] = session.left_behind
    page = session.state._repr_html_()
    assert tables(page)[-1][1] == [one.name, f"{one.nbytes:,}", one.said]
    assert f"left on the device: {input_ids.nbytes:,} bytes" in page


def test_names_are_escaped(runtime, llama, input_ids):
    """The name of a local variable is Python's; that of a key in a dict is anything."""

    def program(model, tokens):
        mine = {"<img src=x>": torch.ones(3)}
        return model(tokens).logits, mine

    session = parked(runtime, 3, program, llama, input_ids)
    page = session.state._repr_html_()
    assert any("<img src=x>" in name for name in columns(page))
    assert "<img" not in page


def test_a_large_state_is_shortened(runtime, llama, input_ids):
    """The first and the last tensors are shown; between them their number and bytes are."""

    def program(model, tokens):
        mine = [torch.ones(5) for _ in range(80)]
        return model(tokens).logits, mine

    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    entries = session.state.entries
    assert len(entries) > 80
    rows = tables(session.state._repr_html_())[0][1:]
    first, last = state_page.FIRST_TENSORS, state_page.LAST_TENSORS
    assert [row[0] for row in rows[:first]] == [entry.name for entry in entries[:first]]
    assert [row[0] for row in rows[-last:]] == [entry.name for entry in entries[-last:]]
    between = entries[first:-last]
    said = f"… {len(between)} more tensors of {sum(entry.nbytes for entry in between):,} bytes"
    assert [row for row in rows if len(row) == 1] == [[f"{said}: print() this, and it lists all"]]


def test_so_much_is_read_and_no_more(runtime, llama, input_ids, monkeypatch):
    """In the order shown; a tensor for which too little is left is passed over. Tokens are always read."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    *most, one, two = [entry for entry in session.state.entries if entry.name.startswith("kv.")]
    assert one.nbytes == two.nbytes
    before = sum(entry.nbytes for entry in session.state.entries[:5] if entry.dtype is torch.float32)
    monkeypatch.setattr(state_page, "MOST_READ_BYTES", before + sum(entry.nbytes for entry in most) + one.nbytes)
    shown = columns(session.state._repr_html_())
    assert (shown[one.name]["norm"] != "-", shown[two.name]["norm"]) == (True, "-")
    monkeypatch.setattr(state_page, "MOST_READ_BYTES", input_ids.numel() * HIDDEN * 4 - 1)
    shown = columns(session.state._repr_html_())
    assert (shown["hidden_states"]["norm"], shown["position_embeddings.0"]["norm"] != "-") == ("-", True)
    assert len(columns(session.state._repr_html_(), 1)) == 9


def test_nothing_goes_on_while_a_number_is_read(runtime, llama, input_ids, monkeypatch):
    """A RESUME waits for the tensor that is being read, so that its bytes are not somebody else's by then."""
    session = parked(runtime, 3, greedy, llama, input_ids, 2)
    session.io_wait()
    resuming, seen = threading.Thread(target=session.resume), []

    def look(tensor):
        if not seen:
            resuming.start()
            resuming.join(0.05)
        seen.append(session.phase)
        return 0.0

    monkeypatch.setattr(state_page, "_norm", look)
    session.state._repr_html_()
    resuming.join()
    assert set(seen) == {djinn.Phase.IO_WAIT}
    session.result(30)


def test_dtypes_without_a_norm(runtime, llama, input_ids):
    """Half precision is summed in float64; whole numbers and an empty tensor raise nothing."""
    values = torch.linspace(-300, 300, 100)

    def program(model, tokens):
        mine = {
            "half": values.half(),
            "bf": values.bfloat16(),
            "count": torch.arange(3),
            "none": torch.empty(0, 4),
            "complex": values.to(torch.complex64),
        }
        return model(tokens).logits, mine

    session = parked(runtime, 3, program, llama, input_ids)
    session.io_wait()
    shown = {name.split(".")[-1].strip("[]'"): row for name, row in columns(session.state._repr_html_()).items()}
    assert shown["half"]["norm"] == norm(values.half())
    assert shown["bf"]["norm"] == norm(values.bfloat16())
    assert shown["count"]["norm"] == shown["complex"]["norm"] == "-"


@pytest.mark.parametrize("swapped", [False, True], ids=["paused", "io_wait"])
def test_what_autograd_holds_stays_and_is_not_read(runtime, llama, input_ids, swapped):
    """The hidden states are the program's own then: on the device, with their bytes, and without numbers."""
    with torch.enable_grad():
        session = parked(runtime, 3, prefill, llama, input_ids)
        if swapped:
            session.io_wait()
        [own] = [entry for entry in session.state.entries if entry.name == "hidden_states"]
        row = columns(session.state._repr_html_())["hidden_states"]
    assert own.nbytes == input_ids.numel() * HIDDEN * 4
    assert (row["shape"], row["where"], row["norm"]) == (str([2, 24, HIDDEN]), "device", "-")
    assert row["bytes"] == f"{own.nbytes:,}"
