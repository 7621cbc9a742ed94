"""Types to shapes, by msgspec's own description of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import inspect as mi

from dogwatch.config.containers import DictShape, ListShape, TupleShape, UnionShape
from dogwatch.config.scalars import BoolShape, ChoiceShape, FloatShape, IntShape, NoneShape, TextShape, UnitShape
from dogwatch.config.section import Section
from dogwatch.config.shape import AnyShape, Shape
from dogwatch.config.structs import FamilyShape, FieldShape, StructShape
from dogwatch.core.component import Component, Registry


class Catalog:
    """The sections of one program and the shapes of their types. Built once, used by every load."""

    def __init__(self, sections: Sequence[Section[Any]]) -> None:
        self.sections = {section.key: section for section in sections}
        if len(self.sections) != len(sections):
            raise ValueError("two sections have the same key")
        self.shapes = {section.key: _Builder(section.families).shape(section.type) for section in sections}


class _Builder:
    """Builds the shapes of one section, whose families say which base classes stand for kinds."""

    def __init__(self, families: Mapping[type[Component], Registry[Any]]) -> None:
        self._families = families
        self._structs: dict[type[Any], StructShape] = {}

    def shape(self, type_: Any) -> Shape:
        return self._from(mi.type_info(type_))

    def struct(self, cls: type[Any]) -> StructShape:
        if cls not in self._structs:
            info = mi.type_info(cls)
            assert isinstance(info, mi.StructType)
            self._build_struct(info)
        return self._structs[cls]

    def _build_struct(self, info: mi.StructType) -> StructShape:
        if info.cls in self._structs:
            return self._structs[info.cls]
        shape = self._structs[info.cls] = StructShape(info.cls)
        fields = []
        for field in info.fields:
            inner = self._from(field.type)
            fields.append(
                FieldShape(
                    name=field.name,
                    key=field.encode_name,
                    shape=inner,
                    required=field.required,
                    family=_family(inner),
                    doc=_description(field.type),
                    default=_default(field),
                )
            )
        shape.complete(fields)
        return shape

    def _from(self, info: mi.Type, meta: dict[str, Any] | None = None) -> Shape:
        if isinstance(info, mi.Metadata):
            described = {"description": _description(info)} if _description(info) else {}
            return self._from(info.type, {**described, **(info.extra or {}), **(meta or {})})
        if isinstance(info, mi.StructType):
            registry = self._families.get(cast("type[Component]", info.cls))
            if registry is not None:
                return FamilyShape(registry, self.struct)
            return self._build_struct(info)
        if isinstance(info, mi.UnionType):
            return UnionShape([self._from(option, meta) for option in info.types])
        return _scalar(info, meta or {}) or self._container(info)

    def _container(self, info: mi.Type) -> Shape:
        if isinstance(info, mi.ListType):
            return ListShape(self._from(info.item_type), list, least=info.min_length, most=info.max_length)
        if isinstance(info, mi.VarTupleType):
            return ListShape(self._from(info.item_type), tuple, least=info.min_length, most=info.max_length)
        if isinstance(info, mi.SetType):
            return ListShape(self._from(info.item_type), set, least=info.min_length, most=info.max_length)
        if isinstance(info, mi.FrozenSetType):
            return ListShape(self._from(info.item_type), frozenset, least=info.min_length, most=info.max_length)
        if isinstance(info, mi.TupleType):
            return TupleShape([self._from(item) for item in info.item_types])
        if isinstance(info, mi.DictType):
            key, value = self._from(info.key_type), self._from(info.value_type)
            return DictShape(key, value, least=info.min_length, most=info.max_length)
        raise TypeError(f"a section cannot have a field of type {info}")


def _scalar(info: mi.Type, meta: dict[str, Any]) -> Shape | None:
    noun = meta.get("description", "")
    if isinstance(info, mi.IntType | mi.FloatType):
        bounds: Any = {"low": info.ge, "above": info.gt, "high": info.le, "below": info.lt}
        if "unit" in meta:
            return UnitShape(meta["unit"], whole=isinstance(info, mi.IntType), **bounds)
        if isinstance(info, mi.FloatType):
            return FloatShape(**bounds)
        return IntShape(**bounds, step=info.multiple_of)
    if isinstance(info, mi.StrType):
        # A pattern is no help to a person, its description is.
        return TextShape(
            least=info.min_length,
            most=info.max_length,
            pattern=info.pattern,
            secret=bool(meta.get("secret")),
            expression=bool(meta.get("cel")),
            noun=noun if info.pattern else "",
        )
    if isinstance(info, mi.LiteralType):
        return ChoiceShape([value for value in info.values if isinstance(value, str | int)])
    if isinstance(info, mi.EnumType):
        return ChoiceShape.of_enum(info.cls)
    simple: dict[type[mi.Type], type[Shape]] = {
        mi.BoolType: BoolShape,
        mi.NoneType: NoneShape,
        mi.AnyType: AnyShape,
    }
    made = simple.get(type(info))
    if made is None and isinstance(info, mi.CustomType) and info.cls is object:
        made = AnyShape
    return made() if made else None


def _family(shape: Shape) -> FamilyShape | None:
    """Return the family of a field that is a member of one, or an optional member."""
    if isinstance(shape, FamilyShape):
        return shape
    if isinstance(shape, UnionShape):
        return next((option for option in shape.options if isinstance(option, FamilyShape)), None)
    return None


def _default(field: mi.Field) -> Callable[[], Any] | None:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
        return lambda: value
    return None if field.default_factory is msgspec.NODEFAULT else field.default_factory


def _description(info: mi.Type) -> str:
    if not isinstance(info, mi.Metadata) or not info.extra_json_schema:
        return ""
    text = info.extra_json_schema.get("description", "")
    return text if isinstance(text, str) else ""
