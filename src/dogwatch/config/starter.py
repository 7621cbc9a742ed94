"""The commented configuration that `dogwatch init` writes: examples live, defaults as comments."""

from __future__ import annotations

import textwrap
from typing import Any

import msgspec

from dogwatch.config.build import Catalog
from dogwatch.config.schema import field_docs, written
from dogwatch.config.section import Section
from dogwatch.config.structs import FieldShape, StructShape

_WIDTH = 80
_HEAD = """\
# Dogwatch configuration. See what is in force, and from where:
#   dogwatch config show --origin
# Check it (all mistakes at once), then let the daemon read it again:
#   dogwatch config check && dogwatch reload now
#
# For completion in editors: dogwatch config schema > dogwatch.schema.json
# yaml-language-server: $schema=dogwatch.schema.json
#
# Durations are written 30s, 5m, 1h30m; sizes 64MiB; shares 25%.
# ${NAME}, ${NAME:-default} and ${file:/path} are replaced; $${ is a literal ${.
"""


def starter(catalog: Catalog) -> str:
    """Return the text of a configuration that passes the check."""
    return "\n".join([_HEAD, *(_section(section, catalog) for section in catalog.sections.values())])


def _section(section: Section[Any], catalog: Catalog) -> str:
    doc = textwrap.fill(section.doc, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    example = textwrap.indent(section.example.strip("\n"), "  ")
    body = f"{section.key}:\n{example}" if example else _defaults(section, catalog)
    return f"{doc}\n{body}\n"


def _defaults(section: Section[Any], catalog: Catalog) -> str:
    shape = catalog.shapes[section.key]
    if not isinstance(shape, StructShape) or not shape.keys:
        return f"# {section.key}:"
    docs = field_docs(shape.type)
    lines = [f"# {section.key}:"]
    for field in shape.keys.values():
        lines += _field(field, field.doc or docs.get(field.name, ""))
    return "\n".join(lines)


def _field(field: FieldShape, doc: str) -> list[str]:
    value = written(field.shape, field.default()) if field.default is not None else None
    shown = "" if value is None or field.shape.secret else " " + msgspec.json.encode(value).decode()
    if isinstance(value, str) and value and value.replace(".", "").isalnum():
        shown = f" {value}"
    line = f"#   {field.key}:{shown}"
    if not doc:
        return [line]
    if len(line) + len(doc) + 4 <= _WIDTH:
        return [f"{line}  # {doc}"]
    return [*textwrap.wrap(doc, _WIDTH, initial_indent="#   # ", subsequent_indent="#   # "), line]
