"""The work folder of a run: one process at a time, and nothing asked twice. Kills are tested with the pruner's runs."""

from __future__ import annotations

import json

import pytest

from flexcim.errors import FlexCiMError
from flexcim_flow.common import journal as journals
from flexcim_flow.common.journal import Journal, JournalError, file_facts, folder_facts, journalled


def test_two_processes_do_not_work_on_one_output(tmp_path):
    with Journal(tmp_path / "work", {"a": 1}) as journal:
        assert journal.once("note", lambda: [1, 0.1]) == [1, 0.1]
        with pytest.raises(JournalError, match=r"work: another process is at work on this output$"):
            Journal(tmp_path / "work", {"a": 1}).__enter__()
    with Journal(tmp_path / "work", {"a": 1}) as journal:
        assert journal.once("note", lambda: pytest.fail("is known")) == [1, 0.1]


def test_what_was_left_while_cleaning_up_does_not_hinder_another_run(tmp_path):
    work = tmp_path / "work"
    with Journal(work, {"a": 1}) as journal:
        journal.once("note", lambda: 1)
    (work / "run.json").write_text(json.dumps({"finished": True}))
    with Journal(work, {"a": 2}) as journal:
        assert journal.once("note", lambda: 2) == 2


def end(work, error):
    """Let a run that has finished something end by an error."""

    def run():
        with Journal(work, {"a": 1}) as journal:
            journal.once("note", lambda: 1)
            raise error

    with pytest.raises(type(error)):
        run()


def full_disk():
    """The sentence of a full disk."""
    try:
        raise OSError("No space left on device")
    except OSError:
        try:
            raise FlexCiMError("cannot be written") from None
        except FlexCiMError as error:
            return error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(), MemoryError(), full_disk()], ids=repr)
def test_what_is_finished_outlives_whatever_is_no_refusal(error, tmp_path):
    end(tmp_path / "work", error)
    assert (tmp_path / "work" / "notes" / "note.json").exists()


def test_a_refused_run_that_was_begun_just_now_leaves_nothing(tmp_path):
    end(tmp_path / "work", FlexCiMError("no"))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_keeps_what_an_earlier_process_finished(tmp_path):
    end(tmp_path / "work", KeyboardInterrupt())
    end(tmp_path / "work", FlexCiMError("no"))
    assert (tmp_path / "work" / "notes" / "note.json").exists()


def test_a_refused_run_keeps_what_took_long(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_SOON_SECONDS", 0.0)
    end(tmp_path / "work", FlexCiMError("no"))
    assert (tmp_path / "work" / "notes" / "note.json").exists()


def test_a_result_takes_the_place_of_an_earlier_one(tmp_path):
    target = tmp_path / "out"
    for text in ("first", "second"):
        with Journal(tmp_path / "work", {}) as journal:
            (journal.result / "text").write_text(text)
            journal.finish(target)
        assert (target / "text").read_text() == text
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_facts_change_with_the_files(tmp_path):
    file = tmp_path / "file"
    assert file_facts(file) is None
    assert file_facts(None) is None
    seen = {folder_facts(tmp_path)}
    for text in ("a", "ab"):
        file.write_text(text)
        seen |= {folder_facts(tmp_path), str(file_facts(file))}
    assert len(seen) == 5


@pytest.mark.parametrize("facts", [{"a": 1, "b": None}, {"b": 1}, {}], ids=str)
def test_a_run_of_another_command_or_version_is_not_mixed(facts, tmp_path):
    end(tmp_path / "work", KeyboardInterrupt())
    with pytest.raises(JournalError, match=r"work: holds an unfinished run of another command or version of flexcim; "):
        Journal(tmp_path / "work", facts).__enter__()
    assert (tmp_path / "work" / "notes" / "note.json").exists()


# -- journalled --------------------------------------------------------------------------------------------------------


def test_a_journalled_run_becomes_its_folder(tmp_path):
    def work(journal, target):
        assert journal.folder == tmp_path / "out.partial"
        (journal.result / "text").write_text(journal.once("word", lambda: "done"))
        journal.finish(target)
        return 5

    assert journalled(tmp_path / "out", {"a": 1}, work, FlexCiMError) == 5
    assert (tmp_path / "out" / "text").read_text() == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_fails_is_told_with_what_is_kept(tmp_path):
    def work(journal, target):
        journal.once("word", lambda: "done")
        raise OSError(28, "No space left on device")

    with pytest.raises(FlexCiMError) as error:
        journalled(tmp_path / "out", {"a": 1}, work, FlexCiMError)
    assert str(error.value) == (
        f"{tmp_path}/out: cannot be written (No space left on device); "
        f"what is finished is kept in {tmp_path}/out.partial"
    )
    (tmp_path / "file").touch()
    with pytest.raises(FlexCiMError, match=r"file/out: cannot be written \(Not a directory\)$"):
        journalled(tmp_path / "file" / "out", {"a": 1}, work, FlexCiMError)
