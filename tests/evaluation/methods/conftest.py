"""What the tests of this folder share."""

from tests.evaluation.measuring import forked, shallow, study, subject  # noqa: F401 - fixtures
