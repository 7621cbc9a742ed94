"""Writes docs/reference/ from the program itself: settings, probe kinds, metrics, commands. `--check` only compares."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from dogwatch.app import open_app
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
from dogwatch.web.meter import Meter

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
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


async def families() -> dict[str, tuple[str, str]]:
    """Return name → (type, help) of everything that `/metrics` can show."""
    found: dict[str, tuple[str, str]] = {}
    for component in PROBES:
        found.update({metric: ("gauge", text) for metric, text in component.metrics.values()})
    for collector in COLLECTORS:
        found.update({metric.name: (metric.kind, metric.help) for metric in collector.metrics})
    found.update({family.name: (family.kind, family.help) for family in Meter().families()})
    with tempfile.TemporaryDirectory() as folder:
        path = Override(("store", "path"), str(Path(folder) / "docs.sqlite"), "--data")
        loader = Loader([], SECTIONS, environ={}, overrides=[path])
        clock = ManualClock()
        app = await open_app(loader.load(), clock=clock, spawn=lambda name, work: asyncio.create_task(work, name=name))
        try:
            reloader = Reloader(loader, app.parts, clock=clock, bus=app.bus)
            found.update({f.name: (f.kind, f.help) for f in app.services(reloader).metrics()})
        finally:
            for part in reversed(app.parts):
                await part.stop()
            await app.close()
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


def pages() -> dict[str, str]:
    """Return file name → content."""
    catalog = Catalog(SECTIONS)
    parts = {
        "settings.md": settings(catalog),
        "probes.md": probe_kinds(catalog),
        "metrics.md": metrics(),
        "operations.md": operations(),
        "cli.md": iter(["# Commands\n", *command_pages(cli, "dogwatch")]),
    }
    return {name: HEAD + "\n".join(lines).rstrip() + "\n" for name, lines in parts.items()}


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, content in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != content:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(content)
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
