"""blackbox_exporter's module files, read with the line of every mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.blackbox_modules import Module, Place, read_module


def read_file(path: Path) -> dict[str, Module]:
    """Return the modules of one of blackbox_exporter's files.

    Raises: ConfigError with file and line of every mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.CSafeLoader(text)
        try:
            root = loader.get_single_node()
            content = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError([Problem(f"cannot read: {error.strerror}", file=str(path))]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem("is not UTF-8", file=str(path))]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise ConfigError([Problem(message, file=str(path), line=mark.line + 1 if mark else 0)]) from None
    modules = content.get("modules") if isinstance(content, dict) else None
    if root is None or not isinstance(modules, dict):
        raise ConfigError([Problem("has no modules", path="modules", file=str(path))])
    return _read_all(modules, path, root)


def _read_all(modules: Mapping[Any, Any], path: Path, root: yaml.Node) -> dict[str, Module]:
    found: dict[str, Module] = {}
    problems: list[Problem] = []
    for name, value in modules.items():
        module, faults = read_module(str(name), value)
        if module is not None:
            found[str(name)] = module
        for fault in faults:
            place = ("modules", name, *fault.path)
            shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
            line = line_of(root, place)
            problems.append(Problem(fault.message, path=shown, file=str(path), line=line, hint=fault.hint))
    if problems:
        raise ConfigError(problems)
    return found


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
