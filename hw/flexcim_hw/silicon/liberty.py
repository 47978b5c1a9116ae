"""Liberty files, which describe the cells of a library: read as the tree of groups that they are.

The syntax is that of the Liberty user guide: ``group (names) { attribute : value; complex (values); … }``.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flexcim.errors import FlexCiMError

__all__ = ["Group", "LibertyError", "evaluate", "read_liberty"]

_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|\\\r?\n|"((?:[^"\\]|\\.)*)"|([{}();:,])|([^\s{}();:,"\\]+)', re.DOTALL)


class LibertyError(FlexCiMError):
    """A file that is no Liberty, or lacks what is asked of a library; the message names the file."""


@dataclass
class Group:
    """A group of a Liberty file.

    Parameters
    ----------
    kind : str
        What it is: ``library``, ``cell``, ``pin``, ``ff`` and so on.
    names : tuple of str
        What stands in its brackets.
    attributes : dict of str to str
        Its simple attributes, and the complex ones with their values joined by spaces; of one that is given twice, the
        last. Tables (``values``, ``index_…``) are left out.
    groups : list of Group
        The groups in it, in order.
    """

    kind: str
    names: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, *kinds: str) -> list[Group]:
        """Its own groups of these kinds."""
        return [group for group in self.groups if group.kind in kinds]

    def number(self, attribute: str, default: float = 0.0) -> float:
        """A simple attribute as a number.

        Raises
        ------
        LibertyError
            If it is none; the message does not name the file.
        """
        text = self.attributes.get(attribute)
        if text is None:
            return default
        try:
            return float(text)
        except ValueError:
            raise LibertyError(f"{attribute} of {self.kind} {' '.join(self.names)} is no number: {text!r}") from None


def read_liberty(path: Path) -> Group:
    """Read a Liberty file, plain or compressed by gzip.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Group
        Its ``library``, without the tables.

    Raises
    ------
    LibertyError
        If it cannot be read, is no Liberty, or ends in the middle of a group.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise LibertyError(f"{path}: cannot be read ({error})") from None
    try:
        (library,) = _groups(text).groups
    except ValueError:
        raise LibertyError(f"{path}: is no Liberty file, which is one group 'library (name) {{ … }}'") from None
    except _TruncatedError:
        raise LibertyError(f"{path}: ends in the middle of a group; the file seems to be cut off") from None
    if library.kind != "library":
        raise LibertyError(f"{path}: is no Liberty file: it begins with {library.kind!r}, not with 'library'")
    return library


class _TruncatedError(Exception):
    """The text ends inside a group."""


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Each token, and whether it is a mark of punctuation."""
    for match in _TOKEN.finditer(text):
        string, mark, word = match.groups()
        if mark:
            yield mark, True
        elif word is not None:
            yield word, False
        elif string is not None:
            yield string, False


def _groups(text: str) -> Group:
    """All groups of a text, in a group without a name."""
    stack = [Group("")]
    tokens = _tokens(text)
    for token, is_mark in tokens:
        if token == "}" and is_mark:
            if len(stack) == 1:
                raise ValueError("a bracket that closes nothing")
            stack.pop()
        elif is_mark:
            if token != ";":
                raise ValueError(f"{token!r} where a name should stand")
        else:
            _statement(token, tokens, stack)
    if len(stack) > 1:
        raise _TruncatedError
    return stack[0]


def _next(tokens: Iterator[tuple[str, bool]], stack: list[Group]) -> tuple[str, bool]:
    """The next token of a statement."""
    token = next(tokens, None)
    if token is not None:
        return token
    if len(stack) > 1:
        raise _TruncatedError
    raise ValueError("a name with nothing behind it")


def _statement(name: str, tokens: Iterator[tuple[str, bool]], stack: list[Group]) -> None:
    """An attribute of the innermost group, or the beginning of a group in it."""
    follows = _next(tokens, stack)
    if follows == (":", True):
        value, is_mark = _next(tokens, stack)
        if is_mark:
            raise ValueError(f"{name} has no value")
        stack[-1].attributes[name] = value
        return
    if follows != ("(", True):
        raise ValueError(f"{name!r} is neither an attribute nor a group")
    arguments: list[str] = []
    for token, is_mark in tokens:
        if token == ")" and is_mark:
            break
        if not is_mark:
            arguments.append(token)
    following = next(tokens, None)
    if following != ("{", True) and name != "values" and not name.startswith("index_"):
        stack[-1].attributes[name] = " ".join(arguments)
    if following == ("{", True):
        group = Group(name, tuple(arguments))
        stack[-1].groups.append(group)
        stack.append(group)
    elif following == ("}", True):  # some files leave the semicolon out before the bracket
        stack.pop()
    elif following is not None and not following[1]:  # or at the end of a line
        _statement(following[0], tokens, stack)


_OPERATOR = re.compile(r"\s*([!'()+|^*&]|[^\s!'()+|^*&]+)")


def evaluate(function: str, pins: Mapping[str, bool]) -> bool:
    """The value of a pin's ``function`` for values of the pins in it.

    Operators bind in this order: ``!`` and ``'`` (not), ``^``, ``*``, ``&`` and a mere space (and), ``+`` and ``|``
    (or).

    Raises
    ------
    LibertyError
        If it is no such expression, or names a pin that has no value; the message does not name the file.
    """
    waiting = _OPERATOR.findall(function)[::-1]

    def operand() -> bool:
        token = waiting.pop() if waiting else ""
        if token == "!":
            return not operand()
        if token == "(":
            value = either()
            if not waiting or waiting.pop() != ")":
                raise LibertyError(f"a bracket is not closed in the function {function!r}")
        elif token in pins or token in ("0", "1"):
            value = pins.get(token, token == "1")
        else:
            raise LibertyError(f"{token!r} is no operand, in the function {function!r}")
        while waiting and waiting[-1] == "'":
            waiting.pop()
            value = not value
        return value

    def different() -> bool:
        value = operand()
        while waiting and waiting[-1] == "^":
            waiting.pop()
            value ^= operand()
        return value

    def both() -> bool:
        value = different()
        while waiting and waiting[-1] not in ("+", "|", ")"):
            if waiting[-1] in ("*", "&"):
                waiting.pop()
            value &= different()
        return value

    def either() -> bool:
        value = both()
        while waiting and waiting[-1] in ("+", "|"):
            waiting.pop()
            value |= both()
        return value

    value = either()
    if waiting:
        raise LibertyError(f"{waiting[-1]!r} is one too many in the function {function!r}")
    return value
