"""Words follow the numbers: every direction of a result can come out, and nothing is said without a number."""

import pytest

from evaluation.text.words import NoSuchNumber, Words
from tests.evaluation.text.test_verdicts import CLAIMS, claim

SIDES = {"below": "sooner", "within": "alike", "above": "later", "unknown": "a range"}


def words(prefix="", claims=CLAIMS, **values):
    numbers = {"numbers": [{"name": name, "value": value} for name, value in values.items()]}
    return Words.of(numbers, {"claims": claims}, prefix)


@pytest.mark.parametrize(
    ("low", "high", "of", "said"),
    [
        (0.8, 0.9, 1, "sooner"),
        (0.9, 1.1, 1, "alike"),
        (1.0, 1.1, 1, "alike"),
        (0.9, 1.0, 1, "alike"),
        (1.1, 1.2, 1, "later"),
        (-2, -1, 0, "sooner"),
        (0.1, 0.2, 0, "later"),
    ],
)
def test_a_phrase_goes_by_where_the_interval_lies(low, high, of, said):
    """One that touches the margin decides nothing."""
    assert words(Ratio=1.0, RatioLow=low, RatioHigh=high).choose("Ratio", **SIDES, of=of) == said


def test_without_an_interval_no_side_is_taken():
    """And without the number there is nothing to say."""
    assert words(Ratio=0.5).choose("Ratio", **SIDES) == "a range"
    with pytest.raises(NoSuchNumber, match=r"the text needs \\Ratio"):
        words().choose("Ratio", **SIDES)


@pytest.mark.parametrize(("one", "said"), [(63, "fewer"), (64, "as many"), (65, "more")])
def test_counts_are_weighed(one, said):
    """Against each other."""
    assert words(Sessions=one).weigh("Sessions", 64, less="fewer", same="as many", more="more") == said


def test_macros_have_the_prefix_of_their_run_and_its_interval_behind_them():
    """A range has nothing behind it."""
    one = words("Big", Ratio=1, RatioLow=0, RatioHigh=2, Range=1)
    assert one.number("Ratio") + one.ends("Ratio") == r"\BigRatio{} (\BigRatioLow{} to \BigRatioHigh{})"
    assert one.ends("Range") == ""


def test_a_sentence_without_its_number_is_left_out():
    """Or the other words stand there; an empty line would end the paragraph."""
    one = words(Ratio=1)
    assert one.sentence(caller=lambda: f"It is {one.number('Ratio')}.\n\n") == "It is \\Ratio{}.\n"
    assert one.sentence(caller=lambda: one.number("Other")) == ""
    assert one.sentence("Not measured.", caller=lambda: one.number("Other")) == "Not measured.\n"


def test_the_worst_place_is_that_of_the_largest_ratio():
    """Of C4, with everything swapped; without any nothing is said."""
    quick = claim("C4", "decode", "ready", "supported", leading_ratio={"value": 0.9, "unit": "ratio"})
    found = words(claims=[quick, *CLAIMS]).worst()
    assert found == ("session", "first kernel", "CFourSessionFirstKernelLeadingRatio")
    with pytest.raises(NoSuchNumber):
        words(claims=CLAIMS[1:]).worst()


def test_a_claim_is_quoted_at_its_first_place():
    """Which the run has decided."""
    assert words(claims=CLAIMS[1:]).of_claim("C4") != words().of_claim("C4") == "CFourSessionFirstKernel"
    with pytest.raises(NoSuchNumber, match="the text needs C2, which the run does not decide"):
        words().of_claim("C2")


def test_claims_are_listed_by_verdict_with_how_often():
    """A claim with one verdict has no count."""
    one = words()
    assert one.tally("refuted") == r"C4 (\CFourRefuted{} of \CFourVerdicts{})"
    assert one.tally("supported") == "C6"
    assert words(claims=CLAIMS[2:]).tally("refuted") == "none"
