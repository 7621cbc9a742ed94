"""JSON Schema 2020-12 of the configuration, for editors: completion, descriptions and early errors."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

import msgspec

from dogwatch.config.build import Catalog
from dogwatch.config.containers import DictShape, ListShape, TupleShape, UnionShape
from dogwatch.config.scalars import BoolShape, ChoiceShape, FloatShape, IntShape, NoneShape, TextShape, UnitShape
from dogwatch.config.shape import Shape
from dogwatch.config.structs import FamilyShape, FieldShape, StructShape

Schema = dict[str, Any]

_SUBSTITUTION = "substitution"
_UNIT_PATTERNS = {
    "duration": r"^(0|([0-9]+(\.[0-9]+)?(ms|[smhdw]))+)$",
    "size": r"^(0|[0-9]+(\.[0-9]+)?\s*[kKmMgGtT]?i?[bB])$",
    "share": r"^[0-9]+(\.[0-9]+)?\s*%$",
}
_UNIT_EXAMPLES = {"duration": ["30s", "5m", "1h30m"], "size": ["64MiB", "10MB"], "share": ["25%"]}


def schema(catalog: Catalog) -> Schema:
    """Return the schema of all sections."""
    writer = _Writer()
    properties = {}
    for key, section in catalog.sections.items():
        # A section with nothing below it is its default.
        properties[key] = {"description": section.doc, "anyOf": [writer.of(catalog.shapes[key]), {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Dogwatch configuration",
        "type": ["object", "null"],
        "properties": properties,
        "patternProperties": {"^x-": {"description": "Ignored: a place for anchors."}},
        "additionalProperties": False,
        "$defs": {
            _SUBSTITUTION: {
                "type": "string",
                "pattern": r"\$\{[^{}]+\}",
                "description": "${NAME}, ${NAME:-default} or ${file:/path}",
            },
            **writer.definitions,
        },
    }


class _Writer:
    """Writes shapes, each struct once, under `$defs`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[StructShape, str] = {}

    def structs(self) -> list[StructShape]:
        return list(self._names)

    def of(self, shape: Shape) -> Schema:
        if isinstance(shape, StructShape):
            return self._struct(shape)
        if isinstance(shape, FamilyShape):
            return self._family(shape)
        if isinstance(shape, UnionShape):
            return {"anyOf": [self.of(option) for option in shape.options]}
        if isinstance(shape, ListShape):
            bounds = _bounds(minItems=shape.least, maxItems=shape.most)
            return {"type": ["array", "null"] if not shape.least else "array", "items": self.of(shape.item), **bounds}
        if isinstance(shape, TupleShape):
            items = [self.of(item) for item in shape.items]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if isinstance(shape, DictShape):
            bounds = _bounds(minProperties=shape.least, maxProperties=shape.most)
            names = {"propertyNames": _text(shape.key)} if isinstance(shape.key, TextShape) else {}
            values = self.of(shape.value)
            return {"type": ["object", "null"], "additionalProperties": values, **names, **bounds}
        return _scalar(shape)

    def _struct(self, shape: StructShape) -> Schema:
        if shape not in self._names:
            name = shape.type.__name__
            while name in self.definitions:
                name += "_"
            self._names[shape] = name
            self.definitions[name] = {}
            self.definitions[name] = self._definition(shape)
        reference = {"$ref": f"#/$defs/{self._names[shape]}"}
        if shape.short is None:
            return reference
        return {"anyOf": [reference, self.of(shape.short.shape)]}

    def _definition(self, shape: StructShape) -> Schema:
        docs = field_docs(shape.type)
        properties: dict[str, Schema] = {}
        for field in shape.keys.values():
            properties[field.key] = _described(self.of(field.shape), field, docs)
        choices: list[Schema] = []
        for field in shape.families:
            assert field.family is not None
            kinds = self._kinds(field.family)
            properties |= kinds
            one = {"oneOf": [{"required": [kind]} for kind in kinds]}
            none = {"not": {"anyOf": [{"required": [kind]} for kind in kinds]}}
            choices.append(one if field.required else {"anyOf": [one, none]})
        required = [field.key for field in shape.fields if field.required and field.family is None]
        definition: Schema = {
            # A mapping that needs nothing may be left empty: `http:`.
            "type": "object" if required or any(field.required for field in shape.families) else ["object", "null"],
            "description": first_sentence(shape.type),
            "properties": properties,
            "additionalProperties": False,
        }
        if required:
            definition["required"] = required
        if choices:
            definition["allOf"] = choices
        return definition

    def _kinds(self, family: FamilyShape) -> dict[str, Schema]:
        """Return the kinds that come with Dogwatch; an outside package's is loaded only when it is named."""
        kinds = {}
        for kind in family.kinds():
            struct = family.shape(kind)
            if struct is not None:
                kinds[kind] = {"description": first_sentence(struct.type), **self._struct(struct)}
        return kinds

    def _family(self, shape: FamilyShape) -> Schema:
        kinds = self._kinds(shape)
        one = {
            "type": "object",
            "properties": kinds,
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }
        bare = [kind for kind in kinds if (struct := shape.shape(kind)) and not any(f.required for f in struct.fields)]
        return {"anyOf": [one, {"enum": bare}]} if bare else one


def _described(schema: Schema, field: FieldShape, docs: dict[str, str]) -> Schema:
    doc = option_doc(field, docs)
    described = {"description": doc, **schema} if doc else dict(schema)
    if field.default is not None:
        value = written(field.shape, field.default())
        if value is not None and not field.shape.secret:
            described["default"] = value
    return described


def option_doc(field: FieldShape, docs: dict[str, str]) -> str:
    """Return what an option is: its own text, else what the struct below it says of itself."""
    shapes = field.shape.options if isinstance(field.shape, UnionShape) else (field.shape,)
    below = [first_sentence(shape.type) for shape in shapes if isinstance(shape, StructShape)]
    return field.doc or docs.get(field.name, "") or docs.get(field.key, "") or " ".join(below)


def written(shape: Shape, value: Any) -> Any:
    """Return a default as it would be written, or None where there is no short way to."""
    if isinstance(shape, UnitShape) and isinstance(value, int | float):
        return shape.show(value)
    if isinstance(shape, ChoiceShape):
        return next((word for word, choice in shape.choices.items() if choice == value), None)
    if isinstance(shape, UnionShape) and isinstance(value, int | float) and not isinstance(value, bool):
        unit = next((option for option in shape.options if isinstance(option, UnitShape)), None)
        return unit.show(value) if unit else value
    if isinstance(value, str | int | float | bool):
        return value
    simple = isinstance(value, list | tuple | dict | frozenset | set)
    if simple and all(isinstance(item, str | int) for item in value) and not isinstance(value, dict):
        return list(value)
    return {} if value == {} else None


def _scalar(shape: Shape) -> Schema:
    reference = {"$ref": f"#/$defs/{_SUBSTITUTION}"}
    if isinstance(shape, TextShape):
        plain = _text(shape)
        narrow = shape.least or shape.most is not None or shape.pattern
        # `version: 1.10` and `name: no` are text here, whatever an editor's parser takes them for.
        loose = [] if narrow or shape.secret or shape.expression else [{"type": ["number", "boolean"]}]
        options = [plain, *loose, *([reference] if narrow else [])]
        return {"anyOf": options} if len(options) > 1 else plain
    if isinstance(shape, IntShape):
        return {"anyOf": [{"type": "integer", **_number_bounds(shape), **_bounds(multipleOf=shape.step)}, reference]}
    if isinstance(shape, FloatShape):
        return {"anyOf": [{"type": "number", **_number_bounds(shape)}, reference]}
    if isinstance(shape, UnitShape):
        pattern = {"type": "string", "pattern": _UNIT_PATTERNS[shape.unit], "examples": _UNIT_EXAMPLES[shape.unit]}
        bare = {"type": "number", **_number_bounds(shape)} if shape.unit == "share" else {"const": 0}
        return {"anyOf": [pattern, bare, reference]}
    if isinstance(shape, BoolShape):
        return {"anyOf": [{"type": "boolean"}, reference]}
    if isinstance(shape, ChoiceShape):
        numbers = [value for value in shape.choices.values() if isinstance(value, int)]
        return {"anyOf": [{"enum": [*shape.choices, *map(int, numbers)]}, reference]}
    return {"type": "null"} if isinstance(shape, NoneShape) else {}


def _text(shape: TextShape) -> Schema:
    bounds = _bounds(minLength=shape.least, maxLength=shape.most, pattern=shape.pattern)
    return {"type": "string", **bounds}


def _number_bounds(shape: IntShape | FloatShape | UnitShape) -> Schema:
    return _bounds(minimum=shape.low, exclusiveMinimum=shape.above, maximum=shape.high, exclusiveMaximum=shape.below)


def _bounds(**keywords: float | str | None) -> Schema:
    return {name: value for name, value in keywords.items() if value is not None}


# What stands in their docstrings is not about anybody's options.
_FOREIGN = frozenset(msgspec.Struct.__mro__)


def first_sentence(cls: type[Any]) -> str:
    """Return the first sentence of a class's docstring, its base's where it has none of its own."""
    for base in cls.__mro__:
        doc = base.__dict__.get("__doc__")
        if doc and base not in _FOREIGN:
            return _paragraphs(doc).split("\n")[0]
    return ""


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return what docstrings say of fields, by the convention of the project: `name: what it is. other: …`.

    A field's text begins where a sentence begins with its name and a colon (`file and line: …` tells of both) and
    ends where the next one does. A subclass's text wins over its base's.
    """
    docs: dict[str, str] = {}
    fields = msgspec.structs.fields(cls)
    # Both: some keys (`from`) cannot be names in Python.
    names = list(dict.fromkeys(name for field in fields for name in (field.name, field.encode_name)))
    if not names:
        return docs
    name = "|".join(sorted(names, key=len, reverse=True))
    start = re.compile(rf"(?:^|(?<=[.)] )|(?<=\n))((?:(?:{name})(?:, | and )?)+): ")
    for base in reversed(cls.__mro__):
        text = "" if base in _FOREIGN else _paragraphs(base.__dict__.get("__doc__") or "")
        marks = list(start.finditer(text))
        for mark, after in zip_longest(marks, marks[1:]):
            end = after.start() if after else len(text)
            sentence = text[mark.end() : end].split("\n")[0].strip()
            for found in re.split(r", | and ", mark[1]):
                docs[found] = sentence
    return docs


def _paragraphs(doc: str) -> str:
    """Return a docstring with each paragraph on one line."""
    paragraphs = re.split(r"\n\s*\n", doc.strip())
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def structs(catalog: Catalog) -> list[StructShape]:
    """Return every struct that the sections can hold."""
    writer = _Writer()
    for shape in catalog.shapes.values():
        writer.of(shape)
    return writer.structs()
