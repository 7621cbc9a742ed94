"""What a user can write or read is documented, and docs/reference is what the program says today."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import dogwatch
from dogwatch.cli.main import cli
from dogwatch.config.build import Catalog
from dogwatch.config.load import Loader
from dogwatch.config.overrides import Override
from dogwatch.config.schema import field_docs, option_doc, structs
from dogwatch.daemon.sections import SECTIONS
from dogwatch.hosts.collectors import COLLECTORS
from dogwatch.hosts.history import KEPT
from dogwatch.probes.kinds import PROBES
from dogwatch.probes.probe import Probe
from dogwatch.probes.spec import COMMON_VARIABLES

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


def test_the_reference_is_up_to_date() -> None:
    ended = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_option_is_described() -> None:
    missing = [
        f"{shape.type.__name__}.{field.name}"
        for shape in structs(Catalog(SECTIONS))
        for field in shape.keys.values()
        if not option_doc(field, field_docs(shape.type))
    ]
    assert missing == []
    assert [section.key for section in SECTIONS if not section.doc] == []


@pytest.mark.parametrize("kind", list(PROBES), ids=lambda kind: kind.kind)
def test_every_variable_and_metric_of_a_kind_is_described(kind: type[Probe]) -> None:
    assert set(kind.meanings) == set(kind.variables)
    assert all(kind.meanings.values())
    assert [name for name, (_metric, text) in kind.metrics.items() if not text] == []
    assert set(kind.metrics) <= {*kind.variables, *COMMON_VARIABLES}


def test_every_metric_of_a_collector_is_described() -> None:
    assert [metric.name for collector in COLLECTORS for metric in collector.metrics if not metric.help] == []


# Names in the same modules that are no metrics of `/metrics`: variables, and what the history keeps of collectors.
_NO_METRICS = {"dogwatch_reload"}


def test_every_metric_that_the_program_names_is_in_the_reference() -> None:
    listed = set(re.findall(r"^\| `([^`]+)`", (DOCS / "reference" / "metrics.md").read_text(), re.MULTILINE))
    kept = {one.name for one in KEPT}
    named = {
        (path.name, node.value)
        for path in (ROOT / "src").rglob("*.py")
        if "dogwatch.core.metrics" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"dogwatch_[a-z0-9_]*[a-z0-9]", node.value)
    }
    assert len(named) > 60
    assert sorted(one for one in named if one[1] not in listed | kept | _NO_METRICS) == []


def test_a_metric_that_waits_for_its_first_value_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "metrics.md").read_text()
    for name in ("dogwatch_logs_transform_events_total", "dogwatch_loop_lag_seconds", "dogwatch_tasks"):
        assert f"| `{name}` |" in text


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from commands(member, f"{path} {name}")


def test_every_command_and_option_has_help() -> None:
    found = list(commands(cli, "dogwatch"))
    assert len(found) > 20
    assert [path for path, command in found if not command.help] == []
    assert [
        f"{path} {option.name}"
        for path, command in found
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ] == []


def test_every_package_says_what_belongs_there() -> None:
    packages = [module.name for module in pkgutil.walk_packages(dogwatch.__path__, "dogwatch.") if module.ispkg]
    assert len(packages) > 10
    assert [name for name in packages if len((import_module(name).__doc__ or "").strip()) < 20] == []


def blocks() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every YAML block of the guides and the README."""
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guide").glob("*.md"))]:
        for match in re.finditer(r"^```yaml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            line = path.read_text()[: match.start()].count("\n") + 1
            yield f"{path.name}:{line}", match[1]


# What is no configuration of ours says so in its first line.
FOREIGN = ("# site.yaml", "# db.yaml", "# prometheus.yml", "# blackbox.yml", "# Kubernetes")


@pytest.mark.parametrize(("place", "text"), list(blocks()), ids=[place for place, _text in blocks()])
def test_every_example_passes_the_check(place: str, text: str, tmp_path: Path) -> None:
    if text.startswith(FOREIGN):
        return
    # Files that the examples name are there on the reader's machine.
    for name in set(re.findall(r"\$\{file:([^}]+)\}", text)):
        (tmp_path / "secret").write_text("secret")
        text = text.replace(name, str(tmp_path / "secret"))
    for name in set(re.findall(r"^\s*file: (/\S+)", text, re.MULTILINE)):
        (tmp_path / "modules.yml").write_text("modules: {}")
        text = text.replace(name, str(tmp_path / "modules.yml"))
    (tmp_path / "dogwatch.yaml").write_text(text)
    store = Override(("store", "path"), str(tmp_path / "store.sqlite"), "--data")
    names = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", text), "value")
    Loader([tmp_path / "dogwatch.yaml"], SECTIONS, environ=names, overrides=[store]).load()
    assert place
