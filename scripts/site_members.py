"""Lets the API reference show the members of hardware components as a table.

The docstrings of Amaranth components have a section ``Members``: their ports, each with direction and shape. The parser
of the reference knows no such section; to it, they are attributes.
"""

from __future__ import annotations

import griffe

__all__ = ["Members"]


class Members(griffe.Extension):
    """Reads ``Members`` as ``Attributes``; mkdocs.yml names this class."""

    def on_class(self, *, cls: griffe.Class, **kwargs: object) -> None:
        """Rename the section of a class's docstring."""
        if cls.docstring:
            cls.docstring.value = cls.docstring.value.replace("\nMembers\n-------\n", "\nAttributes\n----------\n")
