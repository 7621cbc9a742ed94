"""blackbox_exporter's module files, read with the line of every mistake."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dogwatch.config.section import Fault, Included
from dogwatch.core.component import nearest
from dogwatch.probes.blackbox_modules import Module, Place, read_module
from dogwatch.probes.blackbox_reader import Plain, Repeated

# An alias can stand for a thousand others: what is made of a file is bounded, not only the file.
_MAX_VALUES = 200_000
_MAX_DEPTH = 60
_BINARY = "tag:yaml.org,2002:binary"


class _Unreadable(Exception):
    """A node that stands for no value."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1


def file_modules(value: object) -> dict[str, Module]:
    """Return the modules of the files that stand under `file`; later files win. Their check found no mistake."""
    found: dict[str, Module] = {}
    for one in _included(value):
        modules, _faults = read_text(one)
        found.update(modules)
    return found


def file_faults(value: object) -> Iterator[Fault]:
    """Find every mistake in the files that stand under `file`."""
    for one in _included(value):
        yield from read_text(one)[1]


def _included(value: object) -> list[Included]:
    texts = value if isinstance(value, list) else [value]
    # A mapping is a module of that name.
    return [Included.of(text) for text in texts if isinstance(text, str) and text]


def read_text(file: Included) -> tuple[dict[str, Module], list[Fault]]:
    """Return the modules of one of blackbox_exporter's files, and every mistake with its line.

    Of several documents in it, the first one counts.
    """
    try:
        loader = yaml.CSafeLoader(file.text)
        try:
            root = loader.get_node() if loader.check_node() else None
        finally:
            loader.dispose()
        content = _Values().of(root) if root is not None else None
    except _Unreadable as error:
        return {}, [Fault((), str(error), file=file.name, line=error.line)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        return {}, [Fault((), message, file=file.name, line=mark.line + 1 if mark else 1)]
    if root is None or not isinstance(content, Mapping):
        return {}, [Fault(("modules",), "has no modules", file=file.name, line=1)]
    return _read_all(content, file.name, root)


def _read_all(content: Mapping[str, Any], file: str, root: yaml.Node) -> tuple[dict[str, Module], list[Fault]]:
    found: dict[str, Module] = {}
    faults = [Fault((key,), "unknown option", nearest(key, ["modules"])) for key in content if key != "modules"]
    modules = content.get("modules")
    if isinstance(modules, Mapping):
        for name, value in modules.items():
            module, mistakes = read_module(name, value)
            if module is not None:
                found[name] = module
            faults += [Fault(("modules", name, *one.path), one.message, one.hint) for one in mistakes]
        faults += [Fault(("modules", name), "is given twice") for name in _again(modules)]
    elif modules is not None and not (isinstance(modules, Plain) and modules in ("", "~", "null")):
        faults.append(Fault(("modules",), "wants a mapping of names to modules"))
    faults += [Fault((key,), "is given twice") for key in _again(content)]
    return found, [Fault(one.path, one.message, one.hint, file=file, line=line_of(root, one.path)) for one in faults]


def _again(value: Mapping[str, Any]) -> tuple[str, ...]:
    return value.again if isinstance(value, Repeated) else ()


class _Values:
    """Makes values of nodes, with scalars left as they were written."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def of(self, node: yaml.Node, depth: int = 0) -> Any:
        """Return a node's value.

        Raises: _Unreadable.
        """
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise _Unreadable(node, "is nested too deeply, or its aliases stand for too much")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(one, depth + 1) for one in node.value]
        found = Repeated()
        own: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Unreadable(key, "wants a text as the key")
            if key.value == "<<" and not key.style:
                self._merge(found, value, depth + 1)
                continue
            if key.value in own:
                found.again += (key.value,)
            own.add(key.value)
            found[key.value] = self.of(value, depth + 1)
        return found

    def _merge(self, into: Repeated, node: yaml.Node, depth: int) -> None:
        """Take over what `<<` names; what is there already wins, and what the mapping says itself comes later."""
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(one, yaml.MappingNode):
                raise _Unreadable(one, "`<<` wants a mapping, or a list of them")
            for key, value in self.of(one, depth).items():
                into.setdefault(key, value)


def _scalar(node: yaml.ScalarNode) -> str:
    if node.tag == _BINARY:
        try:
            return base64.b64decode("".join(node.value.split()), validate=True).decode("utf-8", "surrogateescape")
        except binascii.Error:
            raise _Unreadable(node, "is not base64") from None
    return str(node.value) if node.style else Plain(node.value)


def line_of(root: yaml.Node, path: Place) -> int:
    """Return the line where the part at a path was written, or where the nearest part around it was."""
    line, node = root.start_mark.line + 1, root
    for step in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line
