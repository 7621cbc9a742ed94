"""`${NAME}`, `${NAME:-default}`, `${file:/path}` and `${vault:path#key}` inside of values. `$${` stands for `${`.

What is put in is never read as YAML: it stays one value, whatever it contains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dogwatch.config.files import SecretFiles
from dogwatch.config.nodes import ListNode, MapNode, Node, ScalarNode, problem, quoted
from dogwatch.config.nodes import Path as NodePath
from dogwatch.config.vault import VaultSecrets
from dogwatch.core.component import nearest
from dogwatch.errors import Problem

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPE_HINT = "write $${ for a literal ${"
MAX_VALUE_CHARS = 2**20


def encodable(text: str) -> bool:
    """Return whether text is proper: bytes of the environment that are not UTF-8 arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Substitution:
    """Replaces substitutions throughout a tree, and collects every one that cannot be.

    names: the environment variables that were asked for.
    """

    def __init__(self, environ: Mapping[str, str], files: SecretFiles) -> None:
        self.problems: list[Problem] = []
        self.names: set[str] = set()
        self._environ = environ
        self._files = files
        self._vault = VaultSecrets(environ)
        self._seen: set[int] = set()

    def apply(self, root: Node) -> None:
        """Replace in place. An aliased node is visited once. The depth is bounded by the composer."""
        self._visit(root, ())

    def _visit(self, node: Node, path: NodePath) -> None:
        if isinstance(node, ScalarNode):
            if "${" in node.text and id(node) not in self._seen:
                self._seen.add(id(node))
                self._scalar(node, path)
        elif id(node) in self._seen:
            return
        elif isinstance(node, MapNode):
            self._seen.add(id(node))
            for key, value in node.items.items():
                self._visit(value, (*path, key))
        elif isinstance(node, ListNode):
            self._seen.add(id(node))
            for index, item in enumerate(node.items):
                self._visit(item, (*path, index))

    def _scalar(self, node: ScalarNode, path: NodePath) -> None:
        faults: list[tuple[str, str]] = []
        hidden = False
        touched = False

        def replace(match: re.Match[str]) -> str:
            nonlocal hidden, touched
            if match[0] == "$${":
                return "${"
            touched = True
            if match[1] is None:
                faults.append((f"{quoted(match.string[match.start() :][:20])} is not a substitution", _ESCAPE_HINT))
                return ""
            hidden = hidden or match[1].startswith(("file:", "vault:"))
            try:
                return self._value(match[1], node)
            except ValueError as error:
                message, hint = (*error.args, "")[:2]
                faults.append((message, hint))
                return ""

        written = node.text
        node.text = _PART.sub(replace, written)
        if len(node.text) > MAX_VALUE_CHARS:
            faults.append(("the substituted value is larger than 1 MiB", ""))
        if touched:
            node.written, node.hidden, node.free = written, hidden, True
        self.problems += [problem(node, path, message, hint) for message, hint in faults]

    def _value(self, inner: str, node: ScalarNode) -> str:
        """Return what stands for the inner text of one `${…}`. Raises: ValueError(message, hint)."""
        if inner.startswith("file:"):
            name = inner.removeprefix("file:").strip()
            if not name or "\0" in name:
                raise ValueError("${file:} names no file", "write ${file:/path/to/file}")
            # A relative path is relative to the file that names it, wherever the daemon was started.
            return self._files.text(Path(node.file).parent / name)
        if inner.startswith("vault:"):
            return self._vault.text(inner.removeprefix("vault:"))
        name, separator, default = inner.partition(":-")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{quoted('${' + inner + '}')} is not a substitution", _ESCAPE_HINT)
        self.names.add(name)
        value = self._environ.get(name, "")
        if not encodable(value):
            raise ValueError(f"the environment variable {name} is not UTF-8")
        if value or (name in self._environ and not separator):
            return value
        if separator:
            return default
        hint = nearest(name, list(self._environ))
        hint = hint if hint.startswith("did") else "write ${" + name + ":-default} where it may be missing"
        raise ValueError(f"the environment variable {name} is not set", hint)
