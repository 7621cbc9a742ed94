"""Options and commands of the fleet are described, and the guide's example is a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import click

from dogwatch.cli.fleet import fleet
from dogwatch.config.build import Catalog
from dogwatch.config.load import Loader
from dogwatch.config.schema import field_docs, option_doc, structs
from dogwatch.core.component import Registry
from dogwatch.engine.jobs import jobs_section
from dogwatch.fleet.action import SshAction
from dogwatch.fleet.desked import ApplyAction, PlanAction
from dogwatch.fleet.planned import DriftAction, PlaybookAction
from dogwatch.fleet.section import FLEET

GUIDE = Path(__file__).parent.parent.parent.parent / "docs" / "guide" / "fleet.md"


def test_every_option_is_described() -> None:
    catalog = Catalog(
        [FLEET, jobs_section(Registry("action", SshAction, PlaybookAction, DriftAction, PlanAction, ApplyAction))]
    )
    missing = [
        f"{shape.type.__name__}.{field.name}"
        for shape in structs(catalog)
        if shape.type.__module__.startswith("dogwatch.fleet")
        for field in shape.keys.values()
        if not option_doc(field, field_docs(shape.type))
    ]
    assert missing == []


def test_every_command_and_option_has_help() -> None:
    for command in fleet.commands.values():
        assert command.help
        assert [one.name for one in command.params if isinstance(one, click.Option) and not one.help] == []


def test_the_guide_has_a_configuration_that_loads(tmp_path: Path) -> None:
    example = re.search(r"```ya?ml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert example is not None
    secret = tmp_path / "cmdb"
    secret.write_text("token")
    (tmp_path / "dogwatch.yaml").write_text(example[1].replace("/run/secrets/cmdb", str(secret)))
    loaded = Loader([tmp_path / "dogwatch.yaml"], [FLEET], environ={}).load().get(FLEET)
    assert [source.kind for source in loaded.sources] == [
        "ansible",
        "executable",
        "ssh_config",
        "command",
        "url",
        "agents",
    ]


def test_ssh_stays_off_the_start_up_path() -> None:
    import subprocess
    import sys

    program = (
        "import sys, dogwatch.cli.fleet, dogwatch.fleet.action, dogwatch.fleet.section, dogwatch.fleet.part\n"
        "import dogwatch.fleet.planned, dogwatch.fleet.sight\n"
        "assert 'dogwatch.fleet.operations' not in sys.modules\n"
        "known = {'asyncssh', 'cryptography', 'rich', 'jinja2', 'ruamel', 'urllib.request', 'http.client'}\n"
        "heavy = known & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
