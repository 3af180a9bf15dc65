"""The records of waits and of neighbours: each lie is refused in one line."""

import shutil

import pytest

from evaluation.records.runs import RunError, load_run, side_records
from tests.evaluation.synthetic import Synthetic, edit
from tests.evaluation.usage_cells import USAGE

GOOD = Synthetic(layers=(20,), samples=2, methods=("manual_offload", "djinn"), beside=USAGE)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The run before anybody lies."""
    folder = GOOD.write(tmp_path_factory.mktemp("good") / "local")
    assert load_run(folder).beside.keys() >= USAGE.keys()
    return folder


def at(*keys, to):
    """The value at ``keys`` of a record becomes ``to``."""

    def put(record):
        *parents, last = keys
        for key in parents:
            record = record[key]
        record[last] = to

    return put


def gone(*keys):
    """The last of the list at ``keys`` is dropped."""

    def drop(record):
        for key in keys:
            record = record[key]
        record.pop()

    return drop


def swapped(record):
    """Two runs of the first half change places."""
    samples = record["cells"][0]["blocks"][0]["samples"]
    samples[0], samples[1] = samples[1], samples[0]


THINKING = {
    "another order": (swapped, "block 1: its second half is not the first in the reverse order"),
    "a floor of another wait": (at("cells", 0, "blocks", 0, "floors", 0, "think_time_ms", to=7), "in the reverse"),
    "a form less": (gone("cells", 0, "forms"), "not every form is there after every wait"),
    "a block less": (gone("cells", 0, "blocks"), "1 blocks of the 2 that are asked for"),
    "a workload less": (gone("cells"), "not every workload is there at every layer"),
    "another layer": (at("cells", 0, "layer", to=21), "not every workload is there at every layer"),
    "not bit-exact": (at("cells", 0, "blocks", 0, "samples", 0, "bit_exact", to=False), "bit_exact"),
    "no next token": (at("cells", 1, "blocks", 0, "samples", 0, "next_token_ms", to=None), "a next token is missing"),
    "an outcome with samples": (at("cells", 0, "outcome", to="out_of_memory"), "with samples or without a message"),
}
NEIGHBOUR = {
    "a token less": (gone("cells", 0, "blocks", 0, 0, "token_ms"), "7 tokens of 8"),
    "a neighbour where none is": (at("cells", 0, "blocks", 0, 3, "token_ms", to=[1.0]), "1 tokens of the neighbour"),
    "a swap less": (gone("cells", 0, "blocks", 0, 2, "resumes"), "3 steps and 2 swaps"),
    "an end of a step less": (gone("cells", 0, "blocks", 0, 1, "step_ends_ms"), "5 steps and 4 ends of steps"),
    "no step": (at("cells", 0, "blocks", 0, 1, "steps", to=0), "0 steps and 0 swaps"),
    "a window less": (gone("cells", 0, "blocks", 0), "has not each window once and then back"),
    "a block less": (gone("cells", 0, "blocks"), "0 blocks of the 1"),
    "another layer": (at("layer", to=40), "not what is swapped in this study"),
    "another workload": (at("workload", to="activation"), "not what is swapped in this study"),
    "not bit-exact": (at("cells", 0, "blocks", 0, 0, "bit_exact", to=False), "bit_exact"),
    "one side twice": (at("cells", 1, "method", to="djinn"), "two cells of method djinn"),
}


@pytest.mark.parametrize(
    ("place", "lie", "says"),
    [
        *(pytest.param("thinking.json", *one, id=name) for name, one in THINKING.items()),
        *(pytest.param("neighbour.json", *one, id=f"neighbour: {name}") for name, one in NEIGHBOUR.items()),
    ],
)
def test_a_lie_is_refused(good, tmp_path, place, lie, says):
    """The message names the file and says what is wrong."""
    folder = shutil.copytree(good, tmp_path / "local")
    edit(folder / place, lie)
    with pytest.raises(RunError) as error:
        load_run(folder)
    assert place in str(error.value)
    assert says in str(error.value)


def test_who_lacks_djinn_or_copies_by_hand_has_neither(good):
    """Nothing is asked for that nobody measures; nor of a study that knows nothing of it."""
    study = load_run(good).study
    assert set(USAGE) <= set(side_records(study))
    assert not set(USAGE) & set(side_records({**study, "methods": ["vanilla", "djinn"]}))
    older = {key: value for key, value in study.items() if key not in ("thinking", "neighbour")}
    assert not set(USAGE) & set(side_records(older))
