"""Writes docs/reference/ from the program itself: settings, probe kinds, metrics, commands. `--check` only compares."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from dogwatch.app import Services, open_app
from dogwatch.cli.main import cli
from dogwatch.config.build import Catalog
from dogwatch.config.load import Loader
from dogwatch.config.overrides import Override
from dogwatch.config.reload import Reloader
from dogwatch.config.schema import field_docs, first_sentence, option_doc, structs, written
from dogwatch.config.structs import FieldShape, StructShape
from dogwatch.core.clock import ManualClock
from dogwatch.daemon.sections import SECTIONS
from dogwatch.fleet.operations import OPERATIONS
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.kinds.http import HttpProbe
from dogwatch.probes.probe import REASONS, Probe
from dogwatch.probes.spec import COMMON_VARIABLES
from dogwatch.web.application import create_web
from dogwatch.web.meter import Meter

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
LISTS = Path(__file__).parent.parent / "src" / "dogwatch" / "cli" / "lists.json"
HEAD = "<!-- Written by `make docs` from the program; edit the docstrings instead. -->\n\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(cell, row))} |"
    yield ""


def option_rows(shape: StructShape, fields: Iterable[FieldShape]) -> Iterator[tuple[str, str, str, str]]:
    docs = field_docs(shape.type)
    for field in fields:
        default = "required"
        if field.default is not None:
            value = written(field.shape, field.default())
            default = "" if value is None else f"`{msgspec.json.encode(value).decode()}`"
        yield f"`{field.key}`", field.shape.words(), default, option_doc(field, docs)


def settings(catalog: Catalog) -> Iterator[str]:
    yield "# Settings\n"
    yield "Every key of the configuration. Durations are written `30s`, `5m`, `1h30m`; sizes `64MiB`; shares `25%`."
    yield "A setting can also come from the environment, as `DOGWATCH_<SECTION>__<KEY>`, or from a flag, which wins.\n"
    shapes = {shape.type: shape for shape in structs(catalog) if not issubclass(shape.type, Probe)}
    yield from table(["section", "what it says"], [(f"`{s.key}`", s.doc) for s in catalog.sections.values()])
    for kind, shape in shapes.items():
        yield f"## {kind.__name__}\n"
        yield f"{first_sentence(kind)}\n"
        yield from table(["key", "written as", "default", "meaning"], option_rows(shape, shape.keys.values()))


def probe_kinds(catalog: Catalog) -> Iterator[str]:
    shapes = {shape.type: shape for shape in structs(catalog)}
    yield "# Probe kinds\n"
    yield "What every expectation may read, whatever the kind:\n"
    yield from table(
        ["variable", "type", "meaning"],
        [(f"`{name}`", kind, HttpProbe.meanings[name]) for name, kind in COMMON_VARIABLES.items()],
    )
    yield f"Why an attempt failed is one word: {', '.join(f'`{word}`' for word in REASONS)}.\n"
    for component in PROBES:
        shape = shapes[component]
        yield f"## {component.kind}\n"
        yield f"{first_sentence(component)}\n"
        if component.short:
            yield f"Short form: `{component.kind}: …` fills `{component.short}`.\n"
        yield from table(["option", "written as", "default", "meaning"], option_rows(shape, shape.keys.values()))
        if component.variables:
            rows = [(f"`{name}`", kind, component.meanings[name]) for name, kind in component.variables.items()]
            yield from table(["variable", "type", "meaning"], rows)
        if component.metrics:
            named = [(f"`{metric}`", variable, text) for variable, (metric, text) in component.metrics.items()]
            yield from table(["metric", "from", "meaning"], named)


@asynccontextmanager
async def opened() -> AsyncIterator[Services]:
    """Open the program over an empty folder; nothing of it runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Override(("store", "path"), str(Path(folder) / "docs.sqlite"), "--data")
        loader = Loader([], SECTIONS, environ={}, overrides=[path])
        clock = ManualClock()
        app = await open_app(loader.load(), clock=clock, spawn=lambda name, work: asyncio.create_task(work, name=name))
        try:
            yield app.services(Reloader(loader, app.parts, clock=clock, bus=app.bus))
        finally:
            for part in reversed(app.parts):
                await part.stop()
            await app.close()


async def families() -> dict[str, tuple[str, str]]:
    """Return name → (type, help) of everything that `/metrics` can show."""
    found: dict[str, tuple[str, str]] = {}
    for component in PROBES:
        found.update({metric: ("gauge", text) for metric, text in component.metrics.values()})
    for collector in COLLECTORS:
        found.update({metric.name: (metric.kind, metric.help) for metric in collector.metrics})
    found.update({family.name: (family.kind, family.help) for family in Meter().families()})
    async with opened() as services:
        found.update({f.name: (f.kind, f.help) for f in services.metrics()})
    return found


def metrics() -> Iterator[str]:
    yield "# Metrics\n"
    yield "What `/metrics` shows. Probe metrics have blackbox_exporter's names, host metrics node_exporter's.\n"
    found = asyncio.run(families())
    yield from table(
        ["metric", "type", "meaning"], [(f"`{name}`", kind, text) for name, (kind, text) in sorted(found.items())]
    )


def command_pages(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, terminal_width=80, max_content_width=80)
    yield f"## {path}\n"
    yield f"```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if member is not None and not member.hidden:
                yield from command_pages(member, f"{path} {name}")


def operations() -> Iterator[str]:
    yield "# Operations of playbooks\n"
    yield "What a playbook can say of hosts; [the guide](../guide/playbooks.md) has plays, handlers and plans.\n"
    for component in OPERATIONS:
        docs = field_docs(component)
        yield f"## {component.kind}\n"
        yield f"{first_sentence(component)}\n"
        rows = []
        for field in msgspec.structs.fields(component):
            default = "required" if field.required else ""
            if not field.required and field.default is not msgspec.NODEFAULT and field.default not in (None, ""):
                default = f"`{msgspec.json.encode(field.default).decode()}`"
            rows.append((f"`{field.name}`", default, docs.get(field.name, "")))
        yield from table(["key", "default", "meaning"], rows)


async def description() -> dict[str, Any]:
    """Return the OpenAPI description of the API."""
    async with opened() as services:
        return create_web(services).description()


def words_of(schema: Any) -> list[str]:
    """Return the words that a filter takes, none where it takes any."""
    if isinstance(schema, Mapping):
        found = schema.get("enum") or [one for value in schema.values() for one in words_of(value)]
        return [str(one) for one in found if one]
    return [word for one in schema for word in words_of(one)] if isinstance(schema, list) else []


def is_array(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "array" or any(is_array(one) for one in schema.get("oneOf", ()))


def resolved(document: Mapping[str, Any], schema: Any) -> Any:
    """Return a schema with what its references name in their place."""
    if isinstance(schema, list):
        return [resolved(document, one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return {name: resolved(document, one) for name, one in schema.items()}


def lists() -> str:
    """Return the filters of every list of the API, as the command line has them for flags."""
    document = asyncio.run(description())
    found = {}
    for path, methods in document["paths"].items():
        given = [one for one in methods.get("get", {}).get("parameters", ()) if one["in"] == "query"]
        if not {"cursor", "limit"} <= {one["name"] for one in given}:
            continue
        found[path] = [
            {
                "name": one["name"],
                "help": one.get("description", ""),
                "many": is_array(one["schema"]),
                "choices": words_of(resolved(document, one["schema"])),
            }
            for one in given
            if one["name"] not in ("cursor", "limit")
        ]
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def pages() -> dict[Path, str]:
    """Return file → content."""
    catalog = Catalog(SECTIONS)
    parts = {
        "settings.md": settings(catalog),
        "probes.md": probe_kinds(catalog),
        "metrics.md": metrics(),
        "operations.md": operations(),
        "cli.md": iter(["# Commands\n", *command_pages(cli, "dogwatch")]),
    }
    return {FOLDER / name: HEAD + "\n".join(lines).rstrip() + "\n" for name, lines in parts.items()}


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    # The lists first: commands are made of them.
    for make in (lambda: {LISTS: lists()}, pages):
        for path, content in make().items():
            if not path.exists() or path.read_text() != content:
                stale.append(path.name)
                if "--check" not in sys.argv:
                    path.write_text(content)
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
