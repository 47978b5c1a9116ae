"""Liberty files: the tree that is read, what is no Liberty, and the value of functions."""

from __future__ import annotations

import gzip
from itertools import product

import pytest

from flexcim_hw.silicon.liberty import LibertyError, evaluate, read_liberty
from tests.support.silicon import tiny_liberty

TEXT = """/* a comment with { */ library ("my lib") {
  define(x, cell, string);   // another {
  capacitive_load_unit (1, \\
     pf);
  cell (A) { area : 1.5; pin(Y) { function : "(A B)'"; timing() { values ("1, 2", "3, 4"); } } }
  cell (B) { area : 2 }
}
"""


def written(tmp_path, content):
    path = tmp_path / "my.lib"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_groups_and_attributes_are_read(tmp_path):
    library = read_liberty(written(tmp_path, TEXT))
    assert (library.kind, library.names) == ("library", ("my lib",))
    assert library.attributes["capacitive_load_unit"] == "1 pf"
    first, second = library.all("cell")
    assert [first.number("area"), second.number("area")] == [1.5, 2]
    (pin,) = first.all("pin")
    assert pin.attributes == {"function": "(A B)'"}
    assert pin.all("timing")[0].attributes == {}


def test_a_compressed_file_is_read_as_the_plain_one(tmp_path):
    plain = read_liberty(written(tmp_path, TEXT))
    assert read_liberty(written(tmp_path, gzip.compress(TEXT.encode()))) == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT[:-20], r"my\.lib: ends in the middle of a group; the file seems to be cut off"),
        (gzip.compress(tiny_liberty().encode())[:-30], r"my\.lib: cannot be read \(Compressed file ended"),
        ("module top(); endmodule\n", r"my\.lib: is no Liberty file, which is one group"),
        ("", r"my\.lib: is no Liberty file, which is one group"),
        ("cell (A) { area : 1; }", r"my\.lib: is no Liberty file: it begins with 'cell', not with 'library'"),
        ("library (a) { } }", r"my\.lib: is no Liberty file"),
        (bytes(range(256)) * 4, r"my\.lib: is no Liberty file"),
    ],
    ids=["cut off", "cut off, compressed", "Verilog", "empty", "a cell", "a bracket", "bytes"],
)
def test_what_is_no_liberty_is_said(content, message, tmp_path):
    with pytest.raises(LibertyError, match=message):
        read_liberty(written(tmp_path, content))


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(LibertyError, match=r"none\.lib: cannot be read \(.*No such file"):
        read_liberty(tmp_path / "none.lib")


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("A", lambda a, b, c: a),
        ("!A'", lambda a, b, c: a),
        ("A B + C", lambda a, b, c: (a and b) or c),
        ("A*(B|C)", lambda a, b, c: a and (b or c)),
        ("!(A & B) ^ C", lambda a, b, c: (not (a and b)) != c),
        ("A + B ^ C", lambda a, b, c: a or (b != c)),
        ("(A B)' C", lambda a, b, c: not (a and b) and c),
        ("1 B", lambda a, b, c: b),
    ],
)
def test_functions_are_evaluated(function, value):
    for bits in product((False, True), repeat=3):
        assert evaluate(function, dict(zip("ABC", bits, strict=True))) == value(*bits)


@pytest.mark.parametrize("function", ["A +", "(A", "A)", "X", ""])
def test_what_is_no_function_is_said(function):
    with pytest.raises(LibertyError, match="in the function"):
        evaluate(function, {"A": True})


def test_a_number_that_is_none_is_said(tmp_path):
    (cell,) = read_liberty(written(tmp_path, "library (a) { cell (B) { area : much; } }")).all("cell")
    with pytest.raises(LibertyError, match="area of cell B is no number: 'much'"):
        cell.number("area")
