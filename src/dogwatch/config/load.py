"""From paths to a whole, validated configuration: read, compose, merge, substitute, override, convert, check."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar, cast

import msgspec

from dogwatch.config import overrides as over
from dogwatch.config.build import Catalog
from dogwatch.config.compose import Limits, compose
from dogwatch.config.containers import is_null
from dogwatch.config.files import Reading, SecretFiles, read_sources
from dogwatch.config.include import include
from dogwatch.config.merge import merge
from dogwatch.config.nodes import (
    ListNode,
    MapNode,
    Node,
    Path,
    ScalarNode,
    child,
    deepest,
    fingerprint,
    format_path,
    problem,
)
from dogwatch.config.overrides import RESERVED, Override
from dogwatch.config.section import Fault, Section
from dogwatch.config.shape import FAILED, Run
from dogwatch.config.substitute import Substitution
from dogwatch.core.component import nearest
from dogwatch.errors import ConfigError, Problem

T = TypeVar("T")


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, before any section gave it a meaning.

    tree: of all files, substitutions and overrides applied. partial: a file is missing from it, so what it does not
    say proves nothing. files: every configuration file that was read. watched: those, the folders and files that
    were named, and every file that `${file:…}` or an `includes` key named, readable or
    not. digest: equal for equal meaning.
    """

    tree: MapNode
    problems: tuple[Problem, ...]
    partial: bool
    files: tuple[str, ...]
    watched: tuple[FilePath, ...]
    digest: str


class Loaded:
    """A whole configuration that has been validated; `config.part.Configuration`."""

    def __init__(self, parsed: Parsed, catalog: Catalog, values: Mapping[str, Any]) -> None:
        self.parsed = parsed
        self.catalog = catalog
        self.digest = parsed.digest
        self.files = parsed.files
        self._values = values

    def get(self, section: Section[T]) -> T:
        """Return a section's value; its default where it was not written."""
        return cast("T", self._values[section.key])

    def origin(self, path: Path) -> str:
        """Return where the value at a path came from: `file:line`, `environment NAME`, a flag, or "default"."""
        node: Node = self.parsed.tree
        for part in path:
            below = child(node, part)
            if below is None:
                # A short form (`tcp: "db-1:5432"`) is one scalar in place of a mapping.
                return node.place if isinstance(node, ScalarNode) and not is_null(node) else "default"
            node = below
        return node.place or "default"


class Loader:
    """Everything a load depends on, given once; parse does all the I/O, validate does none.

    environ: for `${NAME}` and `DOGWATCH_…` settings. overrides: of flags, which win over the environment, but for weak
    ones. known: names DOGWATCH_… that are not settings.
    """

    def __init__(
        self,
        paths: Sequence[str | FilePath],
        sections: Sequence[Section[Any]] | Catalog,
        *,
        environ: Mapping[str, str],
        overrides: Sequence[Override] = (),
        known: frozenset[str] = RESERVED,
    ) -> None:
        self.paths = tuple(FilePath(path) for path in paths)
        self.catalog = sections if isinstance(sections, Catalog) else Catalog(sections)
        self._environ = environ
        self._overrides = tuple(overrides)
        self._known = known

    def parse(self) -> Parsed:
        """Read and join everything. What is wrong is in the result's problems: files stay known, to be watched."""
        return self.parse_reading(read_sources(self.paths))

    def parse_reading(
        self, reading: Reading, secrets: SecretFiles | None = None, limits: Limits | None = None
    ) -> Parsed:
        """Do everything that parse does after the files were read."""
        secrets = secrets or SecretFiles()
        problems = list(reading.problems)
        trees: list[MapNode] = []
        for file in reading.files:
            tree, faults = compose(file.name, file.data, limits)
            problems += faults
            if tree is not None:
                trees.append(_without_extras(tree))
        partial = bool(reading.problems) or len(trees) < len(reading.files)
        whole, faults = merge(trees)
        problems += faults
        substitution = Substitution(self._environ, secrets)
        substitution.apply(whole)
        problems += substitution.problems
        settings, faults = over.from_environment(self._environ, self.catalog, whole, self._known | substitution.names)
        problems += faults
        weak = [one for one in self._overrides if one.weak and not over.written(whole, one.path)]
        whole, faults = over.apply(whole, [*weak, *settings, *(one for one in self._overrides if not one.weak)])
        problems += faults
        problems += include(whole, self.catalog.sections.values(), secrets)
        files = tuple(file.name for file in reading.files)
        return Parsed(
            tree=whole,
            problems=tuple(problems),
            partial=partial,
            files=files,
            watched=tuple(dict.fromkeys([*self.paths, *map(FilePath, files), *secrets.paths])),
            digest=_digest(whole),
        )

    def validate(self, parsed: Parsed) -> Loaded:
        """Give the tree its meaning.

        Raises: ConfigError with every problem there is, in written order, those of parse included.
        """
        problems = list(parsed.problems)
        already = {(found.path, found.file, found.line) for found in problems if found.path}
        values: dict[str, Any] = {}
        runs: dict[str, Run] = {}
        for key, section in self.catalog.sections.items():
            node = parsed.tree.items.get(key)
            found: list[Problem] = []
            runs[key] = Run()
            if node is None or is_null(node):
                values[key] = section.default()
            else:
                values[key], found = self._section(section, node, runs[key], check=not parsed.partial)
            # A failed substitution leaves an empty value; what the type says of that is noise.
            problems += [one for one in found if (one.path, one.file, one.line) not in already]
        problems += self._unknown(parsed.tree)
        if not parsed.partial:
            problems += self._across(parsed, values, runs)
        if problems:
            raise ConfigError(_in_order(problems, parsed.files))
        return Loaded(parsed, self.catalog, values)

    def _across(self, parsed: Parsed, values: Mapping[str, Any], runs: Mapping[str, Run]) -> list[Problem]:
        """Return what the sections say of each other, as far as they could be read."""
        problems: list[Problem] = []
        # A name that is unknown because what has it is wrong itself is told there.
        lost = [node for run in runs.values() for node in run.lost]

        def get(other: Section[Any]) -> Any:
            if values[other.key] is FAILED:
                raise _Unread
            return values[other.key]

        for key, section in self.catalog.sections.items():
            node = parsed.tree.items.get(key)
            if node is None or is_null(node) or values[key] is FAILED:
                continue
            run = runs[key]
            run.lost = lost
            with contextlib.suppress(_Unread):
                for fault in section.across(values[key], get):
                    found = _fault_problem(fault, key, node, run)
                    problems += [found] if found is not None else []
        return problems

    def load(self) -> Loaded:
        """Parse and validate. Raises: ConfigError."""
        return self.validate(self.parse())

    def _unknown(self, tree: MapNode) -> list[Problem]:
        known = list(self.catalog.sections)
        return [
            problem(tree.keys[key], (key,), "unknown section", nearest(key, known) if len(key) <= 100 else "")
            for key in tree.items
            if key not in self.catalog.sections
        ]

    def _section(self, section: Section[Any], node: Node, run: Run, *, check: bool) -> tuple[Any, list[Problem]]:
        value = self.catalog.shapes[section.key].convert(node, (section.key,), run)
        problems = run.problems
        if value is not FAILED and check:
            found = [_fault_problem(fault, section.key, node, run) for fault in section.check(value)]
            problems = problems + [one for one in found if one is not None]
        return value, problems


class _Unread(Exception):
    """Another section could not be read at all."""


def load(
    paths: Sequence[str | FilePath],
    sections: Sequence[Section[Any]] | Catalog,
    *,
    environ: Mapping[str, str],
    overrides: Sequence[Override] = (),
) -> Loaded:
    """Return the configuration of files and folders. Raises: ConfigError with every problem."""
    return Loader(paths, sections, environ=environ, overrides=overrides).load()


def _without_extras(tree: MapNode) -> MapNode:
    """Return the tree without its `x-…` keys: a place for anchors, as in Compose files."""
    items = {key: value for key, value in tree.items.items() if not key.startswith("x-")}
    return MapNode(file=tree.file, line=tree.line, column=tree.column, items=items, keys=tree.keys)


def _digest(tree: MapNode) -> str:
    # Imported here: it brings OpenSSL, which `--help` does without.
    import hashlib

    return hashlib.blake2b(msgspec.json.encode(fingerprint(tree)), digest_size=16).hexdigest()


def _fault_problem(fault: Fault, key: str, node: Node, run: Run) -> Problem | None:
    """Return a check's fault with its place, or None if it follows from a mistake that is already told."""
    path = _written_path((key, *fault.path), run)
    if any(path[: len(failed)] == failed for failed in run.failed_paths):
        return None
    text = f"{fault.message} {fault.hint}"
    if run.lost and any(word in text for word in _words_of(run.lost)):
        return None
    if fault.file:
        return Problem(fault.message, path=format_path(fault.path), file=fault.file, line=fault.line, hint=fault.hint)
    return problem(deepest(node, path[1:]), path, fault.message, fault.hint)


def _written_path(path: Path, run: Run) -> Path:
    """Return the path as written: indexes counted with the items that were left out."""
    out: Path = ()
    for part in path:
        kept = run.kept.get(out)
        index = part
        if kept is not None and isinstance(part, int) and part < len(kept):
            index = kept[part]
        out = (*out, index)
    return out


def _words_of(nodes: Sequence[Node]) -> set[str]:
    """Return the names in what was left out, quoted as messages quote them."""
    words: set[str] = set()
    for node in nodes:
        parts: list[Node] = [node]
        if isinstance(node, MapNode):
            parts = list(node.items.values())
        elif isinstance(node, ListNode):
            parts = node.items
        words |= {f"'{part.text}'" for part in parts if isinstance(part, ScalarNode)}
    return words


def _in_order(problems: Sequence[Problem], files: Sequence[str]) -> list[Problem]:
    """Return problems in the order of files and lines; those of flags and the environment come last."""
    order = {file: index for index, file in enumerate(files)}
    return sorted(dict.fromkeys(problems), key=lambda one: (order.get(one.file, len(order)), one.line))
