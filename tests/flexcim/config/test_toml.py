"""TOML files of configurations: what is wrong with one is said in one sentence that names it."""

from __future__ import annotations

import os

import pytest

from flexcim.config.errors import ConfigError
from flexcim.config.toml import naming, read_toml, write_toml
from flexcim.errors import FlexCiMError


def test_what_is_written_is_read_back(tmp_path):
    document = {"preset": "board", "macro": {"rows": 8, "requantizer": True, "patterns": ["1:1", "4:8"]}}
    write_toml(tmp_path / "my.toml", document)
    assert read_toml(tmp_path / "my.toml") == document
    assert os.listdir(tmp_path) == ["my.toml"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"rows = ", r"is no TOML \("),
        (b"\xff\xfe", r"is no TOML \("),
        (b"rows = " + b"1" * 5000, r"is no TOML \(Exceeds the limit \(4300"),
        (b"rows = " + b"[" * 5000, "is no TOML that can be read, its brackets are nested too deeply$"),
    ],
)
def test_what_is_no_toml_is_refused_by_name(data, message, tmp_path):
    path = tmp_path / "my.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^{path}: {message}"):
        read_toml(path)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file or directory\)$"):
        read_toml(tmp_path / "none.toml")


def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"my\.toml: cannot be written \(No such file or directory\)$"):
        write_toml(tmp_path / "none" / "my.toml", {})
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.toml: cannot be written \(Is a directory\)$"):
        write_toml(tmp_path / "folder.toml", {})
    assert os.listdir(tmp_path) == ["folder.toml"]


def test_each_rule_that_a_file_breaks_is_told_with_its_name():
    with pytest.raises(ConfigError, match=r"^my\.toml: rows must not be 0$"), naming("my.toml"):
        raise FlexCiMError("rows must not be 0")
    with pytest.raises(KeyError), naming("my.toml"):
        raise KeyError("a slip of ours")


def test_config_errors_are_the_users():
    assert issubclass(ConfigError, FlexCiMError)
