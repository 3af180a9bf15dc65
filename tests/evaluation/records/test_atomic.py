"""Files appear whole or not at all."""

import os

import pytest

from evaluation.records.atomic import write_bytes, write_json, write_text


def test_folders_are_made_and_content_is_exact(tmp_path):
    """What is written is what is read, in folders that did not exist, and nothing else is left there."""
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """If the rename fails, the old content stands and the temporary file is gone."""
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def fail(source, target):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_lacks_is_refused_before_anything_is_written(tmp_path, value):
    """NaN, infinity and foreign objects raise, and the old file stands."""
    path = tmp_path / "file.json"
    write_json(path, {"kept": 1})
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"value": value})
    assert path.read_bytes() == before
