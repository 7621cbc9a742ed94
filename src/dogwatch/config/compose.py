"""YAML text to nodes: safe, bounded, with the place of everything.

Works on libyaml's event stream, not on PyYAML's composer: that one recurses in C, and a deep document overflows the
stack. Tags that build objects do not exist here, and the meaning of a scalar is left to its field's type.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec
import yaml

from dogwatch.config.nodes import ListNode, MapNode, Node, ScalarNode, quoted
from dogwatch.errors import Problem

# The pure-Python loader has the same events; it is what remains where PyYAML was built without libyaml.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset({"", "str", "int", "float", "bool", "null"})
_LEADING_TAB = re.compile(r"^ *\t")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one file may hold. nodes: aliases expanded, so that a few lines cannot become gigabytes."""

    file_bytes: int = 16 * 2**20
    depth: int = 100
    nodes: int = 1_000_000


_Parent: TypeAlias = ListNode | MapNode


class _Open(msgspec.Struct):
    """A collection whose end has not come. key: of the entry whose value comes next."""

    node: _Parent
    anchor: str | None
    key: ScalarNode | None = None
    merges: list[tuple[ScalarNode, Node]] = []


# Stands for a key that is no text: its value is still read, and nothing else is said of it.
_NO_KEY = ScalarNode(text="")


class _Stop(Exception):
    """The rest of the file is not worth reading."""


def compose(file: str, data: bytes, limits: Limits | None = None) -> tuple[MapNode | None, list[Problem]]:
    """Return the file's mapping (None if there is none to go on with) and what is wrong with the text."""
    limits = limits or Limits()
    text, problem = _decode(file, data, limits)
    if problem is not None:
        return None, [problem]
    composer = _Composer(file, text, limits)
    root = composer.run()
    return root, composer.problems


def _decode(file: str, data: bytes, limits: Limits) -> tuple[str, Problem | None]:
    if len(data) > limits.file_bytes:
        return "", Problem(f"larger than {limits.file_bytes // 2**20} MiB", file=file, hint="split it into files")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "", Problem("this is UTF-16", file=file, line=1, hint="save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", Problem(f"not UTF-8: byte 0x{data[error.start]:02x}", file=file, line=line, hint="save it as UTF-8")
    if not text.strip():
        # A truncated write must not be taken for a configuration in which everything is a default.
        return "", Problem("the file is empty", file=file, hint="`dogwatch init` writes one to start from")
    return text, None


class _Composer:
    """Builds the tree of one file from its events."""

    def __init__(self, file: str, text: str, limits: Limits) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._text = text
        self._limits = limits
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._documents = 0
        self._count = 0

    def run(self) -> MapNode | None:
        try:
            self._read()
        except yaml.reader.ReaderError as error:
            self._binary(error)
            return None
        except yaml.YAMLError as error:
            self._syntax(error)
            return None
        except _Stop:
            return None
        root = self._root
        if root is None or (isinstance(root, ScalarNode) and root.null):
            return MapNode(file=self._file, line=1, column=1)
        if not isinstance(root, MapNode):
            what = "a list" if isinstance(root, ListNode) else "text"
            self._problem(root.line, f"expected sections such as 'probes:' at the top, found {what}")
            return None
        return root

    def _read(self) -> None:
        loader = _Loader(self._text)
        try:
            while True:
                event = loader.get_event()
                if event is None or isinstance(event, yaml.StreamEndEvent):
                    return
                self._take(event)
        finally:
            loader.dispose()

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event.anchor)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open(MapNode(items={}, keys={}), event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open(ListNode(items=[]), event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                mark: Any = event.start_mark
                self._problem(
                    mark.line + 1, "a second document begins here", "write one document in a file, without '---'"
                )
                raise _Stop

    def _scalar(self, event: Any) -> ScalarNode:
        mark = event.start_mark
        tag = (event.tag or "").removeprefix(_TAG)
        if tag == "!":
            tag = "str"
        if tag not in _SCALAR_TAGS:
            self._tag(event)
            tag = ""
        return ScalarNode(
            file=self._file,
            line=mark.line + 1,
            column=mark.column + 1,
            text=event.value,
            plain=(event.implicit[0] and not event.style) or tag not in ("", "str"),
            tag=tag,
        )

    def _open(self, node: _Parent, event: Any) -> None:
        mark = event.start_mark
        node.file, node.line, node.column = self._file, mark.line + 1, mark.column + 1
        if len(self._stack) >= self._limits.depth:
            self._problem(node.line, f"nested deeper than {self._limits.depth} levels")
            raise _Stop
        if event.tag not in (None, "!", f"{_TAG}map", f"{_TAG}seq"):
            self._tag(event)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor))

    def _close(self) -> None:
        done = self._stack.pop()
        for key, value in done.merges:
            self._merge(done.node, key, value)
        self._add(done.node, done.anchor, counted=True)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor not in self._anchors:
            self._problem(line, f"no anchor '&{event.anchor}' above this alias")
            raise _Stop
        target = self._anchors[event.anchor]
        if target is None:
            self._problem(line, f"the alias '*{event.anchor}' is inside of what it stands for")
            raise _Stop
        self._spend(target.size - 1, line)
        self._add(target, None)

    def _add(self, node: Node, anchor: str | None, *, counted: bool = False) -> None:
        """Put a finished node where it belongs: the root, an item, a key or a key's value."""
        if anchor:
            self._anchors[anchor] = node
        if not counted:
            self._spend(1, node.line)
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.node.size += node.size
        if isinstance(parent.node, ListNode):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = self._key(node)
        else:
            key, parent.key = parent.key, None
            self._entry(parent, key, node)

    def _key(self, node: Node) -> ScalarNode:
        if isinstance(node, ScalarNode) and not node.null:
            return node
        self._problem(node.line, "a key must be text")
        return _NO_KEY

    def _entry(self, parent: _Open, key: ScalarNode, value: Node) -> None:
        assert isinstance(parent.node, MapNode)
        if key is _NO_KEY:
            return
        if key.text == "<<" and key.plain:
            parent.merges.append((key, value))
            return
        first = parent.node.keys.get(key.text)
        if first is not None:
            self._problem(key.line, f"the key {quoted(key.text)} is already set on line {first.line}")
            return
        parent.node.items[key.text] = value
        parent.node.keys[key.text] = key

    def _merge(self, node: _Parent, key: ScalarNode, value: Node) -> None:
        """Apply `<<: *base`: what is written here wins over what is merged in."""
        assert isinstance(node, MapNode)
        for base in value.items if isinstance(value, ListNode) else [value]:
            if not isinstance(base, MapNode):
                self._problem(key.line, "'<<' needs a mapping, or a list of mappings")
                continue
            for name, item in base.items.items():
                if name not in node.items:
                    node.items[name] = item
                    node.keys[name] = base.keys[name]

    def _spend(self, nodes: int, line: int) -> None:
        self._count += nodes
        if self._count > self._limits.nodes:
            self._problem(line, f"more than {self._limits.nodes} values, aliases expanded")
            raise _Stop

    def _tag(self, event: Any) -> None:
        shown = event.tag.replace(_TAG, "!!")
        line = event.start_mark.line + 1
        self._problem(line, f"the tag {quoted(shown)} is not allowed", "write the value without it")

    def _binary(self, error: yaml.reader.ReaderError) -> None:
        """Tell of a character that YAML does not allow, such as binary files have."""
        # libyaml counts the bytes before it.
        line = self._text.encode().count(b"\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        self._problem(line, f"not text: it contains the character U+{code:04X}")

    def _syntax(self, error: Any) -> None:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark else 1
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        context = getattr(error, "context", None)
        lines = self._text.splitlines()
        if mark and line > len(lines) and getattr(error, "context_mark", None):
            # What was never closed is noticed at the end of the file; where it began is what helps.
            line = min(error.context_mark.line + 1, len(lines))
        written = lines[line - 1] if line <= len(lines) else ""
        if _LEADING_TAB.match(written):
            self._problem(line, "a tab cannot indent", "use spaces")
            return
        start = getattr(error, "context_mark", None)
        since = (
            f" {context} that began on line {start.line + 1}" if context and start and start.line < len(lines) else ""
        )
        self._problem(line, f"not YAML: {what}{since}", _syntax_hint(written))

    def _problem(self, line: int, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, file=self._file, line=line, hint=hint))


def _syntax_hint(written: str) -> str:
    """Return the advice for the mistakes that people make most."""
    if "${" in written and ("{" in written.replace("${", "") or "[" in written):
        return 'inside {…} or […] write "${NAME}" in quotes'
    if re.search(r":\s*[%@`]", written):
        return "put the value in quotes"
    if re.search(r":\s+[^'\"#]*:\s", written):
        return "a value that contains ': ' needs quotes"
    return ""
