"""Shapes of structs and of component families: `- name: shop` with `http: {…}` beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dogwatch.config.containers import is_null
from dogwatch.config.nodes import MapNode, Node, Path, ScalarNode, quoted
from dogwatch.config.shape import FAILED, Run, Shape, or_words
from dogwatch.core.component import Component, Registry, nearest


class FieldShape(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a struct. name: of the attribute. key: as written; a family's field has none, kinds stand for it."""

    name: str
    key: str
    shape: Shape
    required: bool
    family: FamilyShape | None = None
    doc: str = ""
    default: Callable[[], Any] | None = None


class StructShape(Shape):
    """A struct's options. Its fields arrive after it is made, because a struct may hold itself."""

    def __init__(self, type_: type[Any]) -> None:
        self.type = type_
        self.fields: tuple[FieldShape, ...] = ()
        self.keys: dict[str, FieldShape] = {}
        self.families: tuple[FieldShape, ...] = ()
        self.short: FieldShape | None = None

    def complete(self, fields: Sequence[FieldShape]) -> None:
        self.fields = tuple(fields)
        self.keys = {field.key: field for field in fields if field.family is None}
        self.families = tuple(field for field in fields if field.family is not None)
        short = getattr(self.type, "short", "") if issubclass(self.type, Component) else ""
        self.short = next((field for field in fields if short and field.name == short), None)

    def words(self) -> str:
        return or_words(["a mapping", self.short.shape.words()]) if self.short else "a mapping"

    def fits(self, node: Node) -> bool:
        return isinstance(node, MapNode) or (self.short is not None and self.short.shape.fits(node))

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if is_null(node):
            node = MapNode(file=node.file, line=node.line, column=node.column)
        before = len(run.problems)
        if isinstance(node, MapNode):
            values = self._fields(node, path, run)
        elif self.short is not None and self.short.shape.fits(node):
            values = self._from_short(self.short, node, path, run)
        else:
            return self.refuse(node, path, run, self._example())
        if values is None:
            return FAILED
        try:
            return self.type(**values)
        except (ValueError, TypeError) as error:
            # The struct's own __post_init__. With a default in place of a mistake, its complaint may be about that.
            if len(run.problems) == before:
                run.fault(node, path, str(error) or "is not valid")
            return FAILED

    def _fields(self, node: MapNode, path: Path, run: Run) -> dict[str, Any] | None:
        """Return the arguments that could be converted, or None if a required one is missing."""
        values: dict[str, Any] = {}
        whole = True
        for field in self.fields:
            if field.family is not None:
                continue
            item = node.items.get(field.key)
            if item is not None:
                value = field.shape.convert(item, (*path, field.key), run)
            elif field.required:
                run.fault(node, (*path, field.key), f"is required; expected {field.shape.words()}")
                value = FAILED
            else:
                continue
            if value is not FAILED:
                values[field.name] = value
            elif field.required:
                whole = False
        unknown = {key for key in node.items if key not in self.keys}
        for field in self.families:
            whole = self._kind(field, node, path, run, (values, unknown)) and whole
        for key in node.items:
            if key in unknown:
                self._unknown(node, key, path, run)
        return values if whole else None

    def _from_short(self, short: FieldShape, node: Node, path: Path, run: Run) -> dict[str, Any] | None:
        value = short.shape.convert(node, path, run)
        whole = value is not FAILED
        for field in self.fields:
            if field.required and field is not short:
                words = f"expected {field.shape.words()}"
                run.fault(node, (*path, field.key), f"is required; {words}", "write it as a mapping")
                whole = False
        return {short.name: value} if whole else None

    def _kind(
        self, field: FieldShape, node: MapNode, path: Path, run: Run, found: tuple[dict[str, Any], set[str]]
    ) -> bool:
        """Convert the member that the entry names; return whether the struct can still be built."""
        values, unknown = found
        family = field.family
        assert family is not None
        kinds = [key for key in node.items if key in unknown and family.knows(key)]
        unknown.difference_update(kinds)
        if not kinds:
            guessed = any(nearest(key, list(family.kinds())).startswith("did") for key in unknown)
            if field.required and not guessed:
                run.fault(node, path, f"no kind of {family.registry.family}", family.choices())
            return not field.required
        if len(kinds) > 1:
            family.refuse_two(kinds, node, path, run)
            return not field.required
        kind = kinds[0]
        value = family.convert_kind(kind, node.keys[kind], node.items[kind], (*path, kind), run)
        if value is FAILED:
            return not field.required
        values[field.name] = value
        return True

    def _unknown(self, node: MapNode, key: str, path: Path, run: Run) -> None:
        known = list(self.keys)
        for field in self.families:
            if field.family is not None:
                known += field.family.kinds()
        if key in {field.name for field in self.families}:
            family = next(field.family for field in self.families if field.name == key)
            assert family is not None
            hint = f"write the kind itself: {', '.join(family.kinds())}"
        else:
            hint = nearest(key, known) if known and len(key) <= 100 else ""
        close = hint.removeprefix("did you mean '").removesuffix("'?")
        expected = self.keys[close].shape.words() if close in self.keys else ""
        run.fault(node.keys[key], (*path, key), "unknown option", f"{hint} (it takes {expected})" if expected else hint)

    def _example(self) -> str:
        required = [field.key for field in self.fields if field.required and field.family is None]
        return f"write {', '.join(f'{key}: …' for key in required[:3])} below it" if required else ""


class FamilyShape(Shape):
    """A member of a family, written as one key that names its kind."""

    def __init__(self, registry: Registry[Any], struct: Callable[[type[Any]], StructShape]) -> None:
        self.registry = registry
        self._struct = struct
        self._outside: frozenset[str] | None = None

    def kinds(self) -> tuple[str, ...]:
        return self.registry.kinds()

    def choices(self) -> str:
        return f"write one of: {', '.join(self.kinds())}"

    def words(self) -> str:
        return f"a kind of {self.registry.family}, such as '{next(iter(self.kinds()), '…')}: …'"

    def fits(self, node: Node) -> bool:
        return isinstance(node, MapNode)

    def knows(self, kind: str) -> bool:
        if kind in self.registry:
            return True
        if self._outside is None:
            from importlib.metadata import entry_points

            group = entry_points(group=f"dogwatch.{self.registry.family}s")
            self._outside = frozenset(entry.name for entry in group)
        return kind in self._outside

    def shape(self, kind: str) -> StructShape | None:
        """Return the shape of a kind, ours or an outside package's, which is loaded now. Raises: ImportError."""
        component = self.registry.find(kind)
        return None if component is None else self._struct(component)

    def convert(self, node: Node, path: Path, run: Run) -> Any:
        if isinstance(node, ScalarNode) and not node.null and not node.hidden and self.knows(node.text):
            # `- host` for a kind that needs no options.
            return self.convert_kind(node.text, node, MapNode(file=node.file, line=node.line), path, run)
        if not isinstance(node, MapNode):
            return self.refuse(node, path, run, self.choices() if self.kinds() else "")
        kinds = [key for key in node.items if self.knows(key)]
        for key in node.items:
            if key not in kinds:
                name = f"unknown kind of {self.registry.family}"
                hint = nearest(key, list(self.kinds())) if len(key) <= 100 else ""
                run.fault(node.keys[key], (*path, key), name, hint)
        if len(kinds) > 1:
            self.refuse_two(kinds, node, path, run)
            return FAILED
        if not kinds:
            if not node.items:
                run.fault(node, path, f"no kind of {self.registry.family}", self.choices())
            return FAILED
        kind = kinds[0]
        return self.convert_kind(kind, node.keys[kind], node.items[kind], (*path, kind), run)

    def convert_kind(self, kind: str, key: ScalarNode, node: Node, path: Path, run: Run) -> Any:
        try:
            shape = self.shape(kind)
        except (ImportError, AttributeError) as error:
            run.fault(key, path, f"the package that brings this kind cannot be loaded: {error}")
            return FAILED
        if shape is None:
            run.fault(key, path, f"unknown kind of {self.registry.family}")
            return FAILED
        return shape.convert(node, path, run)

    def refuse_two(self, kinds: Sequence[str], node: MapNode, path: Path, run: Run) -> None:
        family = self.registry.family
        names = " and ".join(quoted(kind) for kind in kinds)
        where = node.keys[kinds[1]]
        run.fault(where, path, f"{len(kinds)} kinds of {family}: {names}", "write one entry for each")
