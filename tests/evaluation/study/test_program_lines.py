"""What an example program changes of another is found by definition."""

from evaluation.study.program_lines import changed_parts


def test_changed_parts():
    """Comments, layout and docstrings do not count; lost, new and altered definitions do, by name."""
    vanilla = '"""A."""\nimport a\nX = 1\n\ndef one():\n    """Doc."""\n    return 1\n\ndef two():\n    return 2\n'
    same = 'import a\n\n\nX = 1  # why\ndef one():\n    return (1)\ndef two():\n    """More."""\n    return 2\n'
    assert changed_parts(same, vanilla) == []
    other = "import a\nimport b\nX = 2\ndef one():\n    return 1\nclass Two:\n    pass\n"
    assert changed_parts(other, vanilla) == ["imports", "X = 2", "Two", "X = 1", "two"]
    assert changed_parts("def two():\n    pass\n", "def two():\n    a()\n    pass\n") == ["two"]
