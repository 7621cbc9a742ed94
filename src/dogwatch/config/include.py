"""Files of other programs that a section includes: read with the configuration, watched with it, part of its digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dogwatch.config.files import SecretFiles
from dogwatch.config.nodes import ListNode, MapNode, ScalarNode, problem, quoted
from dogwatch.config.nodes import Path as NodePath
from dogwatch.config.section import Section
from dogwatch.errors import Problem


def include(tree: MapNode, sections: Iterable[Section[Any]], files: SecretFiles) -> list[Problem]:
    """Put the content of each file that an `includes` key names in its place; return what could not be read."""
    problems: list[Problem] = []
    for section in sections:
        below = tree.items.get(section.key)
        for key in section.includes:
            node = below.items.get(key) if isinstance(below, MapNode) else None
            if isinstance(node, ScalarNode):
                _read(node, (section.key, key), files, problems)
            elif isinstance(node, ListNode):
                for index, item in enumerate(node.items):
                    if isinstance(item, ScalarNode):
                        _read(item, (section.key, key, index), files, problems)
    return problems


def _read(node: ScalarNode, path: NodePath, files: SecretFiles, problems: list[Problem]) -> None:
    name = node.text.strip()
    if node.hidden or node.null or not name or "\0" in name or "\n" in name:
        problems.append(problem(node, path, f"expected the path of a file, found {quoted(node.text)}"))
        return
    # As with ${file:…}: relative to the file that names it, wherever the daemon was started.
    where = Path(node.file).parent / name
    try:
        text = files.text(where)
    except ValueError as error:
        problems.append(problem(node, path, str(error)))
        node.text = ""
        return
    node.text, node.written, node.hidden, node.plain, node.free = f"{where}\n{text}", name, True, False, True
