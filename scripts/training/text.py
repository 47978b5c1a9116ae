"""The King James Bible: read from Debian's package, cut into training, calibration and held-out text, and written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from flexcim.files import write_text

__all__ = [
    "HELDOUT_PIECE_BYTES",
    "HELDOUT_STARTS",
    "MissingTextError",
    "Split",
    "Verse",
    "read_verses",
    "split_text",
    "write_texts",
]

APT_PACKAGES = "bible-kjv bible-kjv-text"
VERSES_IN_BIBLE = 31_102

# Where the held-out pieces begin. They are spread over law, history, poetry, prophecy, gospel and
# letter, and avoid the chapters that another book repeats almost word for word (Kings and
# Chronicles, the first three gospels), which would flatter a model that has read the other book.
HELDOUT_STARTS: tuple[tuple[str, int], ...] = (
    ("Ge", 24),
    ("Lev", 13),
    ("Deu", 28),
    ("Jdgs", 13),
    ("1Sm", 17),
    ("2Chr", 29),
    ("Job", 30),
    ("Psa", 73),
    ("Prv", 15),
    ("Isa", 49),
    ("Jer", 30),
    ("Eze", 33),
    ("John", 9),
    ("Acts", 17),
    ("Rom", 8),
    ("Rev", 12),
)
HELDOUT_PIECE_BYTES = 7_500
CALIBRATION_PIECES = 32
CALIBRATION_PIECE_BYTES = 8_000


class MissingTextError(RuntimeError):
    """The King James text is not installed on this computer."""


class Verse(NamedTuple):
    """One verse, with the book abbreviation that the program ``bible`` prints."""

    book: str
    chapter: int
    text: str


class Split(NamedTuple):
    """The three texts. Calibration is a part of training; held-out is in neither."""

    training: str
    calibration: str
    heldout: str


def read_verses() -> list[Verse]:
    """Return all verses in order, decompressed by the program ``bible``."""
    missing = MissingTextError(
        f"The King James text was not found; install it with: sudo apt-get install {APT_PACKAGES}"
    )
    program = shutil.which("bible")
    if program is None:
        raise missing
    # -f switches the pretty-printing off, which leaves one line per verse: "Ge1:1 In the ...".
    # Run from / because the program looks for its data in the current folder first.
    answer = subprocess.run([program, "-f", "Gen1:1-Rev22:21"], capture_output=True, cwd="/", check=False)
    verses = []
    for line in answer.stdout.decode("ascii", errors="replace").splitlines():
        match = re.match(r"([1-3]?[A-Z][A-Za-z]*)(\d+):\d+ (.+)", line)
        if match:
            book, chapter, text = match.groups()
            verses.append(Verse(book, int(chapter), " ".join(text.split())))
    if len(verses) != VERSES_IN_BIBLE:
        raise missing
    return verses


def take_piece(lines: list[str], start: int, size: int) -> list[str]:
    """Return the whole lines from ``start`` on that first reach ``size`` bytes."""
    piece: list[str] = []
    length = 0
    while length < size and start + len(piece) < len(lines):
        piece.append(lines[start + len(piece)])
        length += len(piece[-1]) + 1
    return piece


def split_text(verses: list[Verse]) -> Split:
    """Cut the Bible into training, calibration and held-out text, one verse per line."""
    lines = [verse.text for verse in verses]
    first_verse: dict[tuple[str, int], int] = {}
    for index, verse in enumerate(verses):
        first_verse.setdefault((verse.book, verse.chapter), index)

    heldout: list[str] = []
    for start in HELDOUT_STARTS:
        heldout += take_piece(lines, first_verse[start], HELDOUT_PIECE_BYTES)

    # Some verses occur several times word for word ("And the LORD spake unto Moses, saying,").
    # Comparing texts instead of places keeps every copy of a held-out verse out of the training.
    seen = set(heldout)
    training = [line for line in lines if line not in seen]

    calibration: list[str] = []
    for piece in range(CALIBRATION_PIECES):
        start_line = piece * len(training) // CALIBRATION_PIECES
        calibration += take_piece(training, start_line, CALIBRATION_PIECE_BYTES)
    return Split(*("".join(line + "\n" for line in part) for part in (training, calibration, heldout)))


_TEXT_CARD = """\
# Texts

| File | Bytes | What |
| --- | ---: | --- |
| `heldout.txt` | {heldout} | {pieces} contiguous pieces, in no training and no calibration text |
| `calibration.txt` | {calibration} | {calibration_pieces} pieces spread evenly over the training text |

**Source.** The King James Version of the Bible (1611), from Debian's package `bible-kjv-text`,
printed by the program `bible` of the package `bible-kjv`. Verse numbers, book names and chapter
headings are removed: plain ASCII, one verse per line.

**Licence.** The King James text is in the public domain; Debian's copyright file says that its
copyright "is expired since the translation was done in 1611".

**Split.** The held-out pieces begin at the first verse of these chapters (in the package's
abbreviations) and go on for whole verses until they reach {piece_bytes} bytes: {starts}.
Every verse of the Bible that equals a held-out verse word for word is removed from the training
text ({training} bytes remain) and so from the calibration text, which is a part of it. Passages
that the Bible retells in other words do remain.

Made by `python scripts/train_models.py --text-only`.
"""


def write_texts(split: Split, folder: Path) -> None:
    """Write the held-out and calibration texts and the note on where they come from."""
    card = _TEXT_CARD.format(
        heldout=len(split.heldout),
        calibration=len(split.calibration),
        training=len(split.training),
        pieces=len(HELDOUT_STARTS),
        calibration_pieces=CALIBRATION_PIECES,
        piece_bytes=HELDOUT_PIECE_BYTES,
        starts=", ".join(f"{book} {chapter}" for book, chapter in HELDOUT_STARTS),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "heldout.txt", split.heldout)
    write_text(folder / "calibration.txt", split.calibration)
    write_text(folder / "README.md", card)
