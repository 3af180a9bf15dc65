"""A verdict and the figures behind it are macros, named by claim, workload and clock."""

from evaluation.text.macro import as_latex
from evaluation.text.verdicts import verdicts


def claim(name, workload, clock, verdict, keeps=None, **figures):
    return {"id": name, "workload": workload, "clock": clock, "keeps": keeps, "verdict": verdict, "figures": figures}


CLAIMS = [
    claim(
        *("C4", "session", "first_kernel", "refuted"),
        leading_ratio={"value": 1.5, "unit": "ratio", "low": 1.4, "high": 1.6},
        ratio_layer_1={"value": 1.0, "unit": "ratio"},
    ),
    claim(
        *("C4", "session", "ready", "undecided"),
        keeps="frontier",
        leading_difference={"value": -0.02, "unit": "ms", "low": -0.1, "high": 0.1, "range": True},
    ),
    claim(
        *("C6", "session", None, "supported"),
        djinn_sessions={"value": 64, "unit": "sessions", "at_least": True},
        djinn_stopped_by={"value": "device_oom", "unit": ""},
    ),
]


def test_names_say_claim_workload_clock_and_what_is_kept():
    """A range has no ends, a figure of one layer no macro, a cap its sign, a negative number a minus."""
    lines = as_latex(verdicts(CLAIMS), "h200").splitlines()[1:]
    assert lines[:9] == [
        r"\newcommand{\CFourSessionFirstKernelVerdict}{refuted}",
        r"\newcommand{\CFourSessionFirstKernelLeadingRatio}{1.50}",
        r"\newcommand{\CFourSessionFirstKernelLeadingRatioLow}{1.40}",
        r"\newcommand{\CFourSessionFirstKernelLeadingRatioHigh}{1.60}",
        r"\newcommand{\CFourSessionReadyFrontierKeptVerdict}{undecided}",
        r"\newcommand{\CFourSessionReadyFrontierKeptLeadingDifference}{$-$0.0200}",
        r"\newcommand{\CSixSessionVerdict}{supported}",
        r"\newcommand{\CSixSessionDjinnSessions}{$\geq$\,64}",
        r"\newcommand{\CSixSessionDjinnStoppedBy}{device oom}",
    ]


def test_verdicts_are_counted_for_each_claim_and_for_all():
    """Zero as well."""
    counts = {number.name: number.value for number in verdicts(CLAIMS)[9:]}
    ways = ("Verdicts", "Supported", "Refuted", "Undecided")
    assert [counts.pop(f"CFour{way}") for way in ways] == [2, 0, 1, 1]
    assert [counts.pop(f"All{way}") for way in ways] == [3, 1, 1, 1]
    assert counts.keys() == {f"CSix{way}" for way in ways}


def test_a_prefix_keeps_the_macros_of_two_runs_apart():
    """It stands before each name."""
    names = [line.split("}")[0] for line in as_latex(verdicts(CLAIMS), "h200", "HTwoHundred").splitlines()[1:]]
    assert all(name.startswith("\\newcommand{\\HTwoHundredC") or "HTwoHundredAll" in name for name in names)
