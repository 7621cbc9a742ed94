"""Finds what people read in a template, and says it in another language when the template is compiled.

Templates are written in English, unmarked. What stands between tags, and in attributes that are read, is a message;
inline elements and values in it are placeholders. Statements of the template (`{% if %}`) end a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
import msgspec
from jinja2 import nodes

Find = Callable[[str], str]

_INLINE = frozenset({"a", "b", "em", "strong", "span", "small", "button"})
_OPAQUE_INLINE = frozenset({"code", "kbd"})
_OPAQUE = frozenset({"pre", "script", "style", "svg"})
_READ = frozenset(
    {
        "alt", "aria-label", "data-asks", "data-confirm", "data-effect", "data-label", "data-ok", "data-sure",
        "data-title", "data-action", "placeholder", "title",
    }
)  # fmt: skip
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_ATTRIBUTE = re.compile(r'([\w:-]+)="((?:\{\{.*?\}\}|\{%.*?%\}|[^"])*)"', re.DOTALL)
_LETTER = re.compile(r"[A-Za-z]{2}")
_PLACE = re.compile(r"\{(\d+)\}|</?(\d+)>")
# Of a text; an entity, as "&#10;", stays one.
_AMPERSAND = re.compile(r"&(?!#?\w+;)")
_CODE = re.compile(r"[\w./:*&;-]*")
_MARK = "shown_"
# Endings that only English has.
_PLURALS = frozenset({"s", "es", "ies"})


class _Item(msgspec.Struct, frozen=True):
    """A piece of a template. kind: text, value ({{ }}), open, close (of inline elements), whole (`<code>…</code>`), or
    end (what ends a message).
    """

    kind: str
    raw: str
    name: str = ""


def _tag_end(source: str, start: int) -> int:
    """Return where a tag ends; what templates write inside it may hold a ">"."""
    at = start
    while at < len(source):
        if found := _JINJA.match(source, at):
            at = found.end()
            continue
        if source[at] == ">":
            return at + 1
        at += 1
    return at


def _items(source: str) -> Iterator[_Item]:
    at = 0
    text = re.compile(r"[^<{]+|.", re.DOTALL)
    while at < len(source):
        if found := _JINJA.match(source, at):
            raw = found[0]
            yield _Item("value" if raw.startswith("{{") else "end", raw)
            at = found.end()
        elif source[at] == "<" and (tag := re.match(r"</?([a-zA-Z][\w-]*)|<!", source[at:])):
            end = _tag_end(source, at)
            name = (tag[1] or "").lower()
            if name in _OPAQUE | _OPAQUE_INLINE and source[at + 1] != "/":
                close = source.find(f"</{name}>", end)
                end = close + len(name) + 3 if close >= 0 else end
                kind = "whole" if name in _OPAQUE_INLINE else "end"
            elif name in _INLINE:
                kind = "close" if source[at + 1] == "/" else "open"
            else:
                kind = "end"
            yield _Item(kind, source[at:end], name)
            at = end
        else:
            found = text.match(source, at)
            raw = found[0] if found else source[at]
            yield _Item("text", raw)
            at += len(raw)


def _pieces(source: str) -> Iterator[list[_Item]]:
    """Yield runs of items that are one message, and single items that are none."""
    run: list[_Item] = []
    for item in _items(source):
        if item.kind == "end":
            yield run
            yield [item]
            run = []
        elif item.kind == "text":
            for part in re.split(r"([·›])", item.raw):
                if part in ("·", "›"):
                    yield run
                    yield [_Item("end", part)]
                    run = []
                elif part:
                    run.append(_Item("text", part))
        else:
            run.append(item)
    yield run


def _balanced(run: list[_Item]) -> list[list[_Item]]:
    """Split a run at tags whose other half is not in it."""
    open_at: list[int] = []
    loose: set[int] = set()
    for at, item in enumerate(run):
        if item.kind == "open":
            open_at.append(at)
        elif item.kind == "close":
            if open_at and run[open_at[-1]].name == item.name:
                open_at.pop()
            else:
                loose.add(at)
    loose.update(open_at)
    if not loose:
        return [run]
    parts: list[list[_Item]] = []
    start = 0
    for at in sorted(loose):
        # A loose tag may stand inside a pair, whose halves are then apart.
        parts += [*_balanced(run[start:at]), [_Item("end", run[at].raw, run[at].name)]]
        start = at + 1
    return [*parts, *_balanced(run[start:])]


def _pairs(run: list[_Item]) -> dict[int, int]:
    """Return where each opened element of a balanced run is closed."""
    open_at: list[int] = []
    found = {}
    for at, item in enumerate(run):
        if item.kind == "open":
            open_at.append(at)
        elif item.kind == "close":
            found[open_at.pop()] = at
    return found


def _strip(run: list[_Item]) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """Return (before, core, after): an element around the whole, and white space at the ends, are no part of it."""
    low, high = 0, len(run)
    pairs = _pairs(run)
    while low < high:
        if run[low].kind == "text" and not run[low].raw.strip():
            low += 1
        elif run[high - 1].kind == "text" and not run[high - 1].raw.strip():
            high -= 1
        elif pairs.get(low) == high - 1:
            low, high = low + 1, high - 1
        else:
            break
    return run[:low], run[low:high], run[high:]


class _Message:
    """A run as a message. key: its text. raws: what its placeholders stand for."""

    def __init__(self, run: list[_Item]) -> None:
        text = ""
        self.raws: dict[str, str] = {}
        values, elements = 0, 0
        names: list[int] = []
        for item in run:
            if item.kind == "text":
                text += item.raw
                continue
            if item.kind in ("value", "whole"):
                mark = f"{{{values}}}"
                values += 1
            elif item.kind == "open":
                elements += 1
                names.append(elements)
                mark = f"<{elements}>"
            else:
                mark = f"</{names.pop()}>"
            self.raws[mark] = item.raw
            text += mark
        stripped = text.strip()
        self.before = text[: len(text) - len(text.lstrip())]
        self.after = text[len(text.rstrip()) :]
        self.key = " ".join(stripped.replace("&amp;", "&").split())

    @property
    def is_read(self) -> bool:
        return bool(_LETTER.search(_PLACE.sub("", self.key)))

    def fill(self, text: str) -> str:
        escaped = _AMPERSAND.sub("&amp;", text)
        return self.before + _PLACE.sub(lambda place: self.raws.get(place[0], ""), escaped) + self.after


def _shown(raw: str, mark: Callable[[str], str]) -> str:
    return mark(raw) if raw.startswith("{{") else raw


def _mark(raw: str) -> str:
    """Return a value so marked that its own texts are found when the template is compiled."""
    inner = raw[2:-2].strip("-").strip()
    return "{{ " + _MARK + "(" + inner + ") }}"


def _said(run: list[_Item], find: Find) -> str:
    out = []
    for part in _balanced(run):
        if len(part) == 1 and part[0].kind == "end":
            out.append(part[0].raw)
            continue
        before, core, after = _strip(part)
        out += [item.raw for item in before]
        message = _Message([_attributed(item, find) for item in core])
        if message.is_read:
            out.append(message.fill(find(message.key)))
        else:
            out += [_attributed(item, find).raw for item in core]
        out += [item.raw for item in after]
    return "".join(out)


def _attributed(item: _Item, find: Find) -> _Item:
    """Return an item with its own attributes said, or its value marked."""
    if item.kind == "value":
        return _Item("value", _shown(item.raw, _mark))
    if item.kind in ("open", "end") and item.raw.startswith("<"):
        return _Item(item.kind, attributes(item.raw, find), item.name)
    return item


def attributes(tag: str, find: Find) -> str:
    """Return a tag with those of its attributes said that people read."""

    def one(found: re.Match[str]) -> str:
        if found[1] not in _READ:
            return found[0]
        return f'{found[1]}="{_attribute(found[2], find)}"'

    return _ATTRIBUTE.sub(one, tag)


def _attribute(value: str, find: Find) -> str:
    out: list[str] = []
    run: list[_Item] = []

    def flush() -> None:
        message = _Message(run)
        out.append(message.fill(find(message.key)) if message.is_read else "".join(item.raw for item in run))
        run.clear()

    at = 0
    for found in _JINJA.finditer(value):
        if value[at : found.start()]:
            run.append(_Item("text", value[at : found.start()]))
        at = found.end()
        if found[0].startswith("{{"):
            run.append(_Item("value", _shown(found[0], _mark)))
        else:
            flush()
            out.append(found[0])
    if value[at:]:
        run.append(_Item("text", value[at:]))
    flush()
    return "".join(out)


def said(source: str, find: Find) -> str:
    """Return a template's source with all that people read in another language; find gives the other text.

    What is known only to expressions (`"never" if …`) is marked, for SayingEnvironment to find.
    """
    out = []
    for run in _pieces(source):
        if len(run) == 1 and run[0].kind == "end":
            out.append(_attributed(run[0], find).raw)
        else:
            out.append(_said([_wrapped(item, find) for item in run], find))
    return "".join(out)


def _wrapped(item: _Item, find: Find) -> _Item:
    return _Item(item.kind, attributes(item.raw, find), item.name) if item.kind == "open" else item


def _reads(text: str, *, argument: bool) -> bool:
    key = argument and _CODE.fullmatch(text) is not None and text.islower()
    return (
        bool(_LETTER.search(text)) and not key and text not in _PLURALS and not text.startswith(("/", "<", "#", "http"))
    )


def _texts(node: nodes.Node, *, argument: bool = False) -> Iterator[nodes.Const]:
    """Yield the constants of an expression that it may show. argument: of a macro's, where a lone word is a key."""
    if isinstance(node, nodes.Const):
        if isinstance(node.value, str) and _reads(node.value, argument=argument):
            yield node
    elif isinstance(node, nodes.CondExpr):
        yield from _texts(node.expr1, argument=argument)
        if node.expr2 is not None:
            yield from _texts(node.expr2, argument=argument)
    elif isinstance(node, nodes.Or | nodes.And):
        for side in (node.left, node.right):
            yield from _texts(side, argument=argument)
    elif isinstance(node, nodes.Concat):
        for side in node.nodes:
            yield from _texts(side, argument=True)
    elif isinstance(node, nodes.Call):
        for each in (*node.args, *(keyword.value for keyword in node.kwargs)):
            yield from _texts(each, argument=True)


class SayingEnvironment(jinja2.Environment):
    """Compiles templates in one language. find: None for the language they are written in."""

    def __init__(self, *, find: Find | None, **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    def preprocess(self, source: str, name: str | None = None, filename: str | None = None) -> str:
        source = super().preprocess(source, name, filename)
        return said(source, self._find) if self._find is not None else source

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        if self._find is not None:
            self._say(source, self._find)
        return super()._generate(source, *args, **options)

    def _say(self, tree: nodes.Template, find: Find) -> None:
        for output in tree.find_all(nodes.Output):
            for place, node in enumerate(output.nodes):
                if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == _MARK:
                    inner = node.args[0]
                    for text in _texts(inner):
                        text.value = find(text.value)
                    output.nodes[place] = inner
