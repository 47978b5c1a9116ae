"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

import pytest

from flexcim.errors import FlexCiMError
from flexcim.files import check_writable, named_folder, numbered_stem, write_bytes, write_text, writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_nothing_stays_beside_it(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\x00\xff")
    write_text(str(tmp_path / "b.txt"), "Größe\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_bytes() == "Größe\n".encode()
    assert names(tmp_path) == ["a.bin", "b.txt"]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "a longer text")
    write_text(path, "new")
    assert path.read_text() == "new"


def test_an_equal_file_is_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "same")
    os.utime(path, (1, 1))
    before = path.stat()
    write_text(path, "same")
    after = path.stat()
    assert (after.st_mtime, after.st_ino) == (before.st_mtime, before.st_ino)
    write_text(path, "other")
    assert path.stat().st_mtime != 1


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_that_of_any_new_file(tmp_path, mask):
    old = os.umask(mask)
    try:
        write_text(tmp_path / "ours", "")
        (tmp_path / "any").touch()
        assert os.umask(mask) == mask, "the mask must be what it was"
    finally:
        os.umask(old)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "any")}
    assert modes == {0o666 & ~mask}


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(source, target):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_missing_folder_and_a_folder_of_that_name_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]


def test_a_check_makes_the_folders_and_nothing_else(tmp_path):
    (tmp_path / "there").write_text("old")
    check_writable(tmp_path / "there", str(tmp_path / "new" / "folder" / "a.txt"))
    assert names(tmp_path) == ["new", "there"]
    assert names(tmp_path / "new" / "folder") == []
    assert (tmp_path / "there").read_text() == "old"


def test_a_check_names_what_is_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=f"Is a directory: {re.escape(repr(str(tmp_path / 'folder')))}$"):
        check_writable(tmp_path / "a.txt", tmp_path / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=re.escape(repr(str(tmp_path / "file")))):
        check_writable(tmp_path / "file" / "a.txt")

    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir / "tmp1234"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # these tests may be run by root, who may write everywhere
    with pytest.raises(PermissionError, match=f"Permission denied: {re.escape(repr(str(tmp_path)))}$"):
        check_writable(tmp_path / "a.txt")


def test_a_failure_names_the_file_and_not_a_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "missing" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "missing" / "a.txt")


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("out", "{tmp}/out: cannot be written (No space left on device)"),
        ("out/a.txt", "{tmp}/out/a.txt: cannot be written (No space left on device)"),
        (".", "{tmp}/out: cannot be written ({tmp}: No space left on device)"),
        ("there", "{tmp}/out: cannot be written ({tmp}/there: No space left on device)"),
        (".out.a1b2.new", "{tmp}/out: cannot be written (No space left on device)"),
        (None, "{tmp}/out: cannot be written (No space left on device)"),
    ],
)
def test_a_failure_to_write_becomes_a_sentence(tmp_path, obstacle, said):
    """It names what the user named, or what was in its way and can be seen."""
    (tmp_path / "there").touch()
    failure = OSError(28, "No space left on device", *([] if obstacle is None else [str(tmp_path / obstacle)]))
    with pytest.raises(FlexCiMError) as caught, writing(tmp_path / "out", FlexCiMError):
        raise failure
    assert str(caught.value) == said.replace("{tmp}", str(tmp_path))


def test_what_is_kept_is_said_behind(tmp_path):
    def kept() -> str:
        return "; a half is kept" if (tmp_path / "half").exists() else ""

    def write() -> None:
        with writing(tmp_path / "out", FlexCiMError, kept):
            (tmp_path / "half").touch()
            raise OSError(27, "File too large")

    with pytest.raises(FlexCiMError, match=r"cannot be written \(File too large\); a half is kept$"):
        write()


def test_other_failures_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path, FlexCiMError):
        raise KeyError
    with writing(tmp_path, FlexCiMError):
        pass


def test_a_folder_must_have_a_name():
    assert named_folder("a/b") == named_folder(Path("a/b")) == Path("a/b")
    assert named_folder(".") == Path()
    with pytest.raises(ValueError, match=r"^a folder must have a name, not ''$"):
        named_folder("")


def test_each_of_several_things_has_a_file_of_its_own():
    names = ["layers.0.q_proj", "layers.0.up/../proj", "größe 1", "größe/1", "x" * 300, "x" * 301]
    stems = [numbered_stem(index, name) for index, name in enumerate(names)]
    assert stems[:4] == ["0000_layers.0.q_proj", "0001_layers.0.up_.._proj", "0002_gr__e_1", "0003_gr__e_1"]
    assert [len(stem) for stem in stems[4:]] == [85, 85]
    assert len(set(stems)) == len(stems)
