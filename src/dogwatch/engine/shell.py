"""Where in a shell script a template stands, and how a value is written there so that it stays one value.

The script is read as POSIX shells and bash read it. Where a value could not be kept from being read as code (a
here-document, a comment, arithmetic, backquotes), or the script is of a form on which shells differ, a template is
refused when the configuration is loaded: there it is put in a variable first.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

_WORD_ENDS = frozenset(" \t\n;&|()<>")


class Place(enum.Enum):
    """Where a value is put: between words, inside of double quotes, inside of single quotes."""

    PLAIN = "plain"
    DOUBLE = "double"
    SINGLE = "single"


def quote(value: str, place: Place) -> str:
    """Return the text that stands for a value at its place.

    It is always quoted: a bare `A=1` or `2` could be an assignment or the number of a descriptor.
    """
    quoted = "'" + value.replace("'", "'\"'\"'") + "'"
    return {Place.PLAIN: quoted, Place.DOUBLE: f'"{quoted}"', Place.SINGLE: f"'{quoted}'"}[place]


def places(literals: Sequence[str]) -> list[Place | str]:
    """Return for each gap between the literals where it is, or why nothing can be put there safely.

    One more entry says what is wrong with the end of the script, Place.PLAIN where nothing is.
    """
    scanner = _Scanner()
    found: list[Place | str] = []
    for literal in literals:
        scanner.feed(literal)
        found.append(scanner.place())
        scanner.gap()
    if not scanner.unsure and found[-1] is not Place.PLAIN and scanner.frames[-1].kind in ("single", "double", "sub"):
        found[-1] = "the script ends inside of quotes or parentheses"
    else:
        found[-1] = Place.PLAIN
    return found


@dataclass
class _Frame:
    """What the scanner is inside of. kind: top, sub, double, single, ansi, back, brace, sum, comment, document.

    index: brackets open of the index of an array, `a[…]`, in which even `;` is no end.
    """

    kind: str
    depth: int = 0
    index: int = 0
    pending: list[tuple[str, bool, bool]] = field(default_factory=list)


_REFUSED = {
    "ansi": "inside of $'…'",
    "back": "inside of backquotes; write $(…)",
    "brace": "inside of ${…}",
    "sum": "inside of arithmetic",
    "comment": "in a comment, which a line break would end",
    "document": "in a here-document",
}


class _Scanner:
    def __init__(self) -> None:
        self.frames = [_Frame("top")]
        # Why places after here are not certain; "" while they are.
        self.unsure = ""
        self._word = ""
        self._fresh = True
        self._before = ""
        self._text = ""
        self._at = 0

    def place(self) -> Place | str:
        """Return where the scanner stands."""
        kind = self.frames[-1].kind
        if self._before == "$":
            return "directly after $"
        if self._before == "\\":
            return "directly after a backslash"
        if self._before == "<<":
            return "as the end of a here-document"
        if any(frame.index for frame in self.frames):
            return "in the index of an array, which is arithmetic"
        # Also further out: what "${a["…"]}" has between its inner quotes is arithmetic all the same.
        refused = next((_REFUSED[frame.kind] for frame in reversed(self.frames) if frame.kind in _REFUSED), None)
        if refused is not None:
            return refused
        if self.unsure:
            return f"after {self.unsure}"
        return {"double": Place.DOUBLE, "single": Place.SINGLE}.get(kind, Place.PLAIN)

    def gap(self) -> None:
        """Go on behind a value."""
        self._word = "\0"
        self._fresh = False
        self._before = ""

    def feed(self, text: str) -> None:
        self._text, self._at = text, 0
        while self._at < len(text):
            self._before = ""
            getattr(self, f"_in_{self.frames[-1].kind}")(text[self._at])

    def _sees(self, what: str) -> bool:
        return self._text.startswith(what, self._at)

    def _push(self, kind: str, skip: int, depth: int = 0) -> None:
        self.frames.append(_Frame(kind, depth))
        self._at += skip

    def _pop(self, skip: int = 1) -> None:
        self.frames.pop()
        self._at += skip
        self._fresh = False

    # -- commands -------------------------------------------------------------------------------------------------

    def _in_top(self, char: str) -> None:
        if char in _WORD_ENDS:
            self._end_word()
        self._bracket(char)
        if self._sees("\\\n"):
            # As if neither were there: what was the beginning of a word still is.
            self._escape()
        elif char == "#" and self._fresh:
            self._push("comment", 1)
        elif char == "\n":
            self._line_end()
        elif char == "<" and self._sees("<<"):
            self._document()
        elif char in "()":
            self._paren(char)
        elif not self._opening(char, single=True):
            self._word += char if char not in _WORD_ENDS else ""
            self._fresh = char in _WORD_ENDS
            self._at += 1
        else:
            self._fresh = False

    _in_sub = _in_top

    def _bracket(self, char: str) -> None:
        """Mind where bash may read an index: from a bracket after a name to the one that closes it."""
        frame = self.frames[-1]
        if char == "[" and (frame.index or self._word[-1:].replace("_", "a").isalnum()):
            frame.index += 1
        elif char == "]" and frame.index:
            frame.index -= 1

    def _end_word(self) -> None:
        if self._word == "case" and any(frame.kind == "sub" for frame in self.frames):
            self.unsure = self.unsure or "case inside of $(…)"
        self._word = ""

    def _line_end(self) -> None:
        frame = self.frames[-1]
        self._at += 1
        self._fresh = True
        if frame.pending:
            pending, frame.pending = frame.pending, []
            self.frames.append(_Frame("document", pending=pending))

    def _paren(self, char: str) -> None:
        frame = self.frames[-1]
        self._fresh = True
        if char == "(" and self._sees("(("):
            self._push("sum", 2, 2)
        elif char == "(":
            frame.depth += 1
            self._at += 1
        elif frame.kind == "sub" and frame.depth <= 1:
            if frame.pending:
                self.unsure = self.unsure or "a here-document that begins in $(…) and ends after it"
            self._pop()
        else:
            frame.depth -= 1
            self._at += 1

    def _opening(self, char: str, *, single: bool) -> bool:
        """Go into what a character opens, or over what it escapes; return whether it was one of these."""
        if char == "\\":
            self._escape()
        elif char == "'" and single:
            self._push("single", 1)
        elif char == '"':
            self._push("double", 1)
        elif char == "`":
            self._push("back", 1)
        elif char != "$":
            return False
        else:
            self._dollar(single=single)
        return True

    def _dollar(self, *, single: bool) -> None:
        if self._sees("$(("):
            self._push("sum", 3, 2)
        elif self._sees("$("):
            self._push("sub", 2, 1)
            self._word, self._fresh = "", True
            return
        elif self._sees("${"):
            self._push("brace", 2)
        elif self._sees("$'") and single:
            self._push("ansi", 2)
        else:
            self._before = "$" if self._at + 1 == len(self._text) else ""
            # `$#` and `$$` are variables, and the second character means nothing by itself.
            self._at += 2 if self._text[self._at + 1 : self._at + 2] in ("#", "$") else 1

    def _escape(self) -> None:
        if self._sees("\\\n") and self._at and self._text[self._at - 1] in "$<(#":
            self.unsure = self.unsure or "a line that is continued in the middle of a word"
        self._before = "\\" if self._at + 1 == len(self._text) else ""
        self._at += 2

    def _document(self) -> None:
        if self._sees("<<<"):
            self._at += 3
            self._fresh = True
            return
        self._at += 2
        strip = self._sees("-")
        self._at += strip
        while self._sees(" ") or self._sees("\t"):
            self._at += 1
        word, quoted = "", False
        while self._at < len(self._text) and self._text[self._at] not in _WORD_ENDS:
            char = self._text[self._at]
            quoted = quoted or char in "\\'\""
            word += "" if char in "\\'\"" else char
            self._at += 1
        if self._at == len(self._text):
            self._before = "<<"
        if "$" in word or "`" in word:
            self.unsure = self.unsure or "a here-document whose end is computed"
        self.frames[-1].pending.append((word, strip, quoted))
        self._fresh = False

    # -- inside of quotes and the like ------------------------------------------------------------------------------

    def _in_comment(self, char: str) -> None:
        if char == "\n":
            self.frames.pop()
            self._line_end()
        else:
            self._at += 1

    def _in_single(self, char: str) -> None:
        if char == "'":
            self._pop()
        else:
            self._at += 1

    def _in_ansi(self, char: str) -> None:
        if char == "\\":
            # bash takes the quote after it for text, others end there.
            if self._sees("\\'"):
                self.unsure = self.unsure or "an escaped quote in $'…'"
            self._at += 2
        else:
            self._in_single(char)

    def _in_double(self, char: str) -> None:
        if char == '"':
            self._pop()
        elif not self._opening(char, single=False):
            self._at += 1

    def _in_back(self, char: str) -> None:
        if char == "\\":
            self._at += 2
        elif char == "`":
            self._pop()
        else:
            self._at += 1

    def _in_brace(self, char: str) -> None:
        if char == "}":
            self._pop()
        elif char == "'":
            self.unsure = self.unsure or "a quote inside of ${…}"
            self._at += 1
        elif not self._opening(char, single=False):
            self._at += 1

    def _in_sum(self, char: str) -> None:
        frame = self.frames[-1]
        if char in "'\"`\\":
            self.unsure = self.unsure or "quotes inside of arithmetic"
        frame.depth += {"(": 1, ")": -1}.get(char, 0)
        if frame.depth == 0:
            self._pop()
        else:
            self._at += 1

    def _in_document(self, _char: str) -> None:
        frame = self.frames[-1]
        end = self._text.find("\n", self._at)
        line = self._text[self._at : end if end >= 0 else len(self._text)]
        self._at = end + 1 if end >= 0 else len(self._text)
        word, strip, quoted = frame.pending[0]
        if line.endswith("\\") and not quoted:
            self.unsure = self.unsure or "a continued line in a here-document"
        if (line.lstrip("\t") if strip else line) == word:
            frame.pending.pop(0)
        if not frame.pending:
            self.frames.pop()
            self._fresh = True
