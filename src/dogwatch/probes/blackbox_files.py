"""blackbox_exporter's module files, read with the line of every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dogwatch.config.section import Fault, Included
from dogwatch.probes.blackbox_modules import Module, Place, read_module


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
    """Return the modules of one of blackbox_exporter's files, and every mistake with its line."""
    try:
        loader = yaml.CSafeLoader(file.text)
        try:
            root = loader.get_single_node()
            content = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        return {}, [Fault((), message, file=file.name, line=mark.line + 1 if mark else 1)]
    modules = content.get("modules") if isinstance(content, dict) else None
    if root is None or not isinstance(modules, dict):
        return {}, [Fault(("modules",), "has no modules", file=file.name, line=1)]
    return _read_all(modules, file.name, root)


def _read_all(modules: Mapping[Any, Any], file: str, root: yaml.Node) -> tuple[dict[str, Module], list[Fault]]:
    found: dict[str, Module] = {}
    problems: list[Fault] = []
    for name, value in modules.items():
        module, faults = read_module(str(name), value)
        if module is not None:
            found[str(name)] = module
        for fault in faults:
            place = ("modules", str(name), *fault.path)
            problems.append(Fault(place, fault.message, fault.hint, file=file, line=line_of(root, place)))
    return found, problems


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
