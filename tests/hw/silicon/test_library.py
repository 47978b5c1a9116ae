"""A cell library: what is found in it, and what it may not lack."""

from __future__ import annotations

import gzip

import pytest

from flexcim_hw.silicon import library as module
from flexcim_hw.silicon.fanout import Buffer
from flexcim_hw.silicon.liberty import LibertyError
from flexcim_hw.silicon.library import read_library
from tests.support.silicon import default_library, tiny_liberty


def tiny(tmp_path, **changed):
    path = tmp_path / "tiny.lib"
    path.write_text(tiny_liberty(**changed))
    return path


def test_the_default_library_is_what_debian_ships():
    library = default_library()
    assert library.name == "osu018_stdcells"
    assert library.corner == "typical, 1.8 V, 25 °C"
    assert library.gate == library.areas["NAND2X1"]
    assert library.buffer == Buffer("BUFX2", "A", "Y")
    assert library.inputs["DFFPOSX1"] == ("CLK", "D")


def test_a_library_of_one_file_is_read(tmp_path):
    library = read_library([tiny(tmp_path)])
    assert (library.name, library.corner) == ("tiny", "nominal, 1 V, 25 °C")
    assert library.areas == {"NAND2": 4, "BUF": 3, "DFF": 10, "LATCH": 8}
    assert (library.gate, library.buffer) == (4, Buffer("BUF", "A", "Y"))
    assert library.buffer_load == pytest.approx(20)


def test_a_library_may_lie_in_several_files(tmp_path):
    (tmp_path / "rest.lib").write_text(tiny_liberty(DFF="", LATCH="", BUF=""))
    library = read_library([tiny(tmp_path, NAND2=""), tmp_path / "rest.lib"])
    assert library.name == "tiny + tiny"
    assert library.gate == 4


def test_a_buffer_that_is_not_to_be_used_is_not(tmp_path):
    buffer = "dont_use : true; area: 1; pin(A){direction: input;} pin(Y){direction: output; function: A;}"
    assert read_library([tiny(tmp_path, BAD=buffer)]).buffer.cell == "BUF"


def test_compressed_files_are_unpacked_for_the_tools(tmp_path):
    path = tmp_path / "tiny.lib.gz"
    path.write_bytes(gzip.compress(tiny_liberty().encode()))
    (tmp_path / "work").mkdir()
    (plain,) = read_library([path]).unpacked(tmp_path / "work")
    assert plain.parent == tmp_path / "work"
    assert plain.read_text() == tiny_liberty()
    (same,) = read_library([tiny(tmp_path)]).unpacked(tmp_path / "work")
    assert same == tmp_path / "tiny.lib"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"DFF": ""}, r"tiny\.lib: holds no flip-flop \(a cell with a group 'ff'\), which synthesis needs"),
        ({"LATCH": ""}, r"tiny\.lib: holds no latch \(a cell with a group 'latch'\), which synthesis needs"),
        ({"NAND2": ""}, r"tiny\.lib: holds no NAND of two inputs with an area, the unit of gate equivalents"),
        ({"BUF": ""}, r"tiny\.lib: holds no buffer with an area, of which trees for large nets are made"),
        (dict.fromkeys(("DFF", "LATCH", "NAND2", "BUF"), ""), r"tiny\.lib: holds no cell"),
        (
            {
                "NAND2": "area: 4; pin(A){direction: input;} pin(B){direction: input;} pin(Y){direction: output;}",
                "BUF": "area: 3; pin(A){direction: input;} pin(Y){direction: output;}",
            },
            r"tiny\.lib: says of no gate's output what its function is, which synthesis needs",
        ),
    ],
    ids=["flip-flop", "latch", "NAND", "buffer", "cells", "functions"],
)
def test_what_a_library_lacks_is_said(changed, message, tmp_path):
    with pytest.raises(LibertyError, match=message):
        read_library([tiny(tmp_path, **changed)])


def test_without_the_default_library_its_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DEFAULT_LIBERTY", tmp_path / "none.lib")
    with pytest.raises(LibertyError, match=r"none\.lib is missing; install Debian's qflow-tech-osu018, or name one"):
        read_library()
