"""The claims that no clock decides: sessions, edits, and lines of the program."""

import pytest

from evaluation.claims import of_use
from evaluation.records.runs import load_run
from evaluation.study.program_lines import example, state_lines
from tests.evaluation.claims.decided import LINES, beside, decided, entries, others_stand, verdicts
from tests.evaluation.synthetic import probe, wall

OF_USE = entries("C6", "C7", "C8")


C6 = {
    "vanilla holds as many": ({"capacity_vanilla": [wall("default", 64, "cap", headline=True)]}, "refuted"),
    "vanilla reaches 50": ({"capacity_vanilla": [wall("default", 50, "device_oom", headline=True)]}, "refuted"),
    "vanilla was stopped by the host": ({"capacity_vanilla": [wall("default", 9, "host_full", headline=True)]},
                                        "undecided"),
    "nobody was asked for 50": ({"capacity_vanilla": [wall("default", 10, "cap", headline=True)],
                                 "capacity_djinn": [wall("default", 10, "cap", headline=True)]}, "undecided"),
    "vanilla not measured": ({"capacity_vanilla": None}, "undecided"),
    "only vanilla's other form": ({"capacity_vanilla": [wall("own_process", 2, "device_oom", headline=False)]},
                                  "undecided"),
    "Djinn stops at 49": ({"capacity_djinn": [wall("default", 49, "device_oom", headline=True)]}, "refuted"),
    "Djinn fills the host": ({"capacity_djinn": [wall("default", 20, "host_full", headline=True)]}, "refuted"),
    "Djinn not measured": ({"capacity_djinn": None}, "undecided"),
}  # fmt: skip


@pytest.mark.parametrize("name", C6)
def test_c6(tmp_path, name):
    """Each side refutes alone; both must be there to support."""
    changes, verdict = C6[name]
    found = decided(tmp_path / "local", beside(**changes), plan=OF_USE)
    assert verdicts(found, "C6") == {verdict}
    assert others_stand(found, "C6")
    assert found["C6", "session", None].judgement.remark


def test_c6_tells_how_many_coded_sessions_fit(tmp_path):
    """They decide nothing: who pauses without a codec has the plain ones."""
    plain = wall("default", 40, "arena", headline=True, arena_bytes=1 << 30)
    coded = wall("coded", 60, "arena", headline=False, arena_bytes=1 << 30)
    found = decided(tmp_path / "local", beside(capacity_djinn=[plain, coded]), plan=OF_USE)
    assert verdicts(found, "C6") == {"refuted"}
    judgement = found["C6", "session", None].judgement
    assert judgement.lead.endswith(", Djinn 40, coded 60")
    assert judgement.figures["djinn_coded_sessions"].value == 60


ENDS = {
    (
        "cap",
        64,
        105,
    ): "At 64 sessions a stated cap ended the count; the arena of 105 GiB holds 64.6 sessions of that size, "
    "and would have ended it there.",
    (
        "cap",
        64,
        130,
    ): "At 64 sessions a stated cap ended the count; the arena of 130 GiB holds 80.0 sessions of that size.",
    (
        "arena",
        64,
        105,
    ): "At 64 sessions the host arena was full; the arena of 105 GiB holds 64.6 sessions of that size.",
    (
        "arena",
        24,
        40,
    ): "At 24 sessions the host arena was full; the arena of 40.0 GiB holds 24.6 sessions of that size.",
    (
        "device_oom",
        40,
        105,
    ): "At 40 sessions the device refused; the arena of 105 GiB holds 64.6 sessions of that size.",
    ("host_full", 40, None): "At 40 sessions the host's memory refused.",
}


@pytest.mark.parametrize("ended", ENDS)
def test_c6_names_what_ended_the_count(tmp_path, ended):
    """Also that the arena would have, where the cap did."""
    stopped_by, sessions, arena_gib = ended
    run = load_run(beside().write(tmp_path / "local"))
    (cell,) = run.beside["capacity/djinn.json"]["cells"]
    cell.update(stopped_by=stopped_by, sessions=sessions)
    cell["figures"][-1]["host_bytes"] = int(sessions * 1.625 * 2**30)
    cell["arena_bytes"] = arena_gib and arena_gib * 2**30
    judgement = of_use.sessions(run)
    assert judgement.remark.endswith(ENDS[ended])
    assert str(judgement.verdict) == ("supported" if sessions >= 50 else "refuted")


C7 = {
    "Djinn inexact": ({"capabilities_djinn": [probe("default", True, False, LINES, [1], headline=True)]}, "refuted"),
    "an offload loses it": ({"capabilities_manual_offload": [probe("pinned", True, True, 33, [1], headline=True),
                             probe("pageable", False, False, None, [1], headline=False)]}, "refuted"),
    "recompute keeps it": ({"capabilities_recompute": [probe("default", True, True, 6, [1], headline=True),
                            probe("replay", True, True, 10, [1], headline=False)]}, "refuted"),
    "replay loses it": ({"capabilities_recompute": [probe("default", False, False, 6, [1], headline=True),
                         probe("replay", False, False, 10, [1], headline=False)]}, "refuted"),
    "replay not measured": ({"capabilities_recompute": [probe("default", False, False, 6, [1], headline=True)]},
                            "undecided"),
    "vanilla not measured": ({"capabilities_vanilla": None}, "undecided"),
}  # fmt: skip


@pytest.mark.parametrize("name", C7)
def test_c7(tmp_path, name):
    """Every variant that was asked must be as claimed, and every one that the claim names must have been asked."""
    changes, verdict = C7[name]
    found = decided(tmp_path / "local", beside(**changes), plan=OF_USE)
    assert verdicts(found, "C7") == {verdict}
    assert others_stand(found, "C7")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Djinn's and vanilla's example programs, to be changed; no other method has one."""
    texts = {method: example(method).read_text() for method in ("vanilla", "djinn")}
    for method, text in texts.items():
        (tmp_path / f"{method}.py").write_text(text)

    def there(method):
        path = tmp_path / f"{method}.py"
        return path if path.exists() else None

    monkeypatch.setattr(of_use, "example", there)
    return tmp_path


def counting(lines):
    """The good recipe whose Djinn record counted ``lines``."""
    return beside(capabilities_djinn=[probe("default", True, True, lines, [0.6], headline=True)])


def test_c8_a_change_to_the_model_refutes(programs):
    """One statement in the function that builds the model, counted as the tool counts it."""
    path = programs / "djinn.py"
    path.write_text(path.read_text().replace("config = LlamaConfig(", "config = djinn.Config("))
    lines = state_lines(path.read_text(), (programs / "vanilla.py").read_text())
    found = decided(programs / "local", counting(lines), plan=OF_USE)
    assert verdicts(found, "C8") == {"refuted"}
    assert "build_model" in found["C8", None, None].judgement.remark
    assert others_stand(found, "C8")


def test_c8_another_program_than_the_runs_decides_nothing(programs):
    """The record counted a program that is not the one here."""
    found = decided(programs / "local", counting(LINES + 1), plan=OF_USE)
    assert verdicts(found, "C8") == {"undecided"}
    assert f"{LINES + 1} lines" in found["C8", None, None].judgement.remark


@pytest.mark.parametrize(
    ("method", "recipe", "reason"),
    [
        ("djinn", beside(), "No example program of djinn."),
        (None, beside(capabilities_djinn=None), "No capabilities record of djinn"),
        (None, counting(None), "counts no lines"),
    ],
)
def test_c8_without_program_or_count_is_undecided(programs, method, recipe, reason):
    """The reason is the remark."""
    if method:
        (programs / f"{method}.py").unlink()
    claim = decided(programs / "local", recipe, plan=OF_USE)["C8", None, None]
    assert (str(claim.verdict), reason in claim.judgement.remark) == ("undecided", True)
