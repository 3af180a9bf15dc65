"""What the tests of this folder share."""

from tests.evaluation.measuring import forked, shallow  # noqa: F401 - fixtures
