"""Every list of the API and its command: what the one filters by, the other has a flag for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest
from tests.fakes import FakeProgram

from dogwatch.cli.listing import FILE, Filter, filters_of
from dogwatch.cli.main import cli, main
from dogwatch.cli.output import print_table
from dogwatch.web.application import create_web

# Lists that a command shows together with what they belong to, and lists for programs.
SHOWN_ELSEWHERE = {
    "/api/v1/findings": "the console's Settings; for programs",
    "/api/v1/fleet/drift": "fleet plans --drift",
    "/api/v1/fleet/plans/{plan_id}/hosts": "fleet plans PLAN",
    "/api/v1/fleet/playbooks": "config show",
    "/api/v1/fleet/runs/{run_id}/hosts": "fleet runs RUN",
    "/api/v1/logs/troubles": "the console's page of logs; for programs",
    "/api/v1/locations": "the console's incidents; what places report to each other",
    "/api/v1/runs/{run_id}/steps": "run show",
    "/api/v1/schedules/{name}/fires": "schedule show",
    "/api/v1/targets/{name}/failures": "probe show",
    "/api/v1/targets/{name}/results": "probe show",
    "/api/v1/targets/{name}/transitions": "probe transitions --target",
}
# Lists of this machine, of which the API knows nothing.
LOCAL = {"context list"}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from commands(member, (*path, name))
    else:
        yield " ".join(path), command


KNOWN = dict(commands(cli))
LISTING = {name: getattr(one.callback, "list_of", "") for name, one in KNOWN.items()}


def resolved(document: Mapping[str, Any], schema: Any) -> str:
    """Return a schema as text, with what its references name in their place."""
    text = json.dumps(schema)
    for name, one in document["components"]["schemas"].items():
        text = text.replace(json.dumps({"$ref": f"#/components/schemas/{name}"}), json.dumps(one))
    return text


def test_every_filter_of_every_list_has_its_flag() -> None:
    document = create_web(FakeProgram().services).description()
    lists = {}
    for path, methods in document["paths"].items():
        given = [one for one in methods.get("get", {}).get("parameters", ()) if one["in"] == "query"]
        if {"cursor", "limit"} <= {one["name"] for one in given}:
            lists[path] = [one for one in given if one["name"] not in ("cursor", "limit")]
    assert lists.keys() == json.loads(FILE.read_text()).keys(), "run `make docs`"
    assert lists.keys() - set(LISTING.values()) == SHOWN_ELSEWHERE.keys()
    for name, path in LISTING.items():
        flags = {flag: one for one in KNOWN[name].params if isinstance(one, click.Option) for flag in one.opts}
        for one in lists.get(path, ()):
            filter_ = next(known for known in filters_of(path) if known.name == one["name"])
            # `audit search TEXT` has it without a flag.
            if filter_.flag not in flags:
                assert one["name"] in {argument.name for argument in KNOWN[name].params}, (name, one["name"])
                continue
            option = flags[filter_.flag]
            assert option.multiple == filter_.many or name == "fleet list", (name, one["name"])
            assert '"array"' in json.dumps(one["schema"]) if filter_.many else True
            if isinstance(option.type, click.Choice) and filter_.choices:
                text = resolved(document, one["schema"])
                assert all(f'"{word}"' in text for word in option.type.choices), (name, one["name"])


@pytest.mark.parametrize("name", [one for one in KNOWN if one.endswith(" list") and one not in LOCAL])
def test_every_list_pages_filters_and_speaks_json(name: str) -> None:
    assert LISTING[name], f"`dogwatch {name}` has no filters: give it list_options (cli/listing.py)"
    flags = {flag for one in KNOWN[name].params if isinstance(one, click.Option) for flag in one.opts}
    assert {"--limit", "--json", "--server", "--context"} <= flags


def test_flags_read_as_people_type_them() -> None:
    assert [Filter(name=name).flag for name in ("q", "since_s", "time_zone")] == ["--search", "--since", "--time-zone"]


@pytest.mark.parametrize("given", ["soon", "2026-13-01", "-1x", ""])
def test_a_time_that_is_none_is_a_mistake(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "list", "--since", given]) == 2
    assert "neither a duration" in capsys.readouterr().err


WIDE = ["shop", "https://shop.example/" + "x" * 300]


def test_what_is_piped_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(["TARGET", "ADDRESS"], [WIDE], cut=(1,))
    assert WIDE[1] in capsys.readouterr().out


def test_on_a_screen_a_table_fits_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["TARGET", "ADDRESS"], [WIDE], cut=(1,))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 80
    assert lines[1].endswith("…")
