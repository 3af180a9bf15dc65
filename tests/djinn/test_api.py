"""The front door and its reference."""

import runpy
from pathlib import Path

import djinn

ROOT = Path(__file__).parents[2]


def test_the_reference_is_what_the_docstrings_say():
    """API.md is made from the docstrings as they are: run ``python .ci/api_reference.py`` after changing one."""
    reference = runpy.run_path(str(ROOT / ".ci" / "api_reference.py"))["reference"]
    assert Path(djinn.__file__).with_name("API.md").read_text() == reference()


def test_every_public_name_is_documented():
    """Each exported class and each of its public members has a docstring."""
    for name in djinn.__all__:
        kind = getattr(djinn, name)
        assert kind.__doc__, name
        for member, value in vars(kind).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{member}"
