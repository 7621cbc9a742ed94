"""Inventories as strangers write them (tests/cases/fleet: a folder each), and how sources are merged."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.config.load import Loader
from dogwatch.errors import ConfigError
from dogwatch.fleet.inventory import ini
from dogwatch.fleet.inventory.draft import Draft
from dogwatch.fleet.inventory.inventory import Inventory, merge
from dogwatch.fleet.inventory.lined import Sealed
from dogwatch.fleet.inventory.load import load_inventory, read_inventory
from dogwatch.fleet.inventory.ranges import fold
from dogwatch.fleet.inventory.sources import UrlSource, guess
from dogwatch.fleet.section import FLEET

CASES = Path(__file__).parent.parent.parent / "cases" / "fleet"


def read(*sources: str) -> tuple[Inventory, list[str]]:
    drafts = []
    for source in sources:
        draft = Draft(source)
        guess(source).read(Path(), draft)
        drafts.append(draft)
    inventory, problems = merge(drafts)
    return inventory, [str(problem) for problem in problems]


def members(inventory: Inventory, group: str) -> str:
    return fold(host for host in inventory.hosts if host in inventory.groups[group].members)


@pytest.mark.parametrize("folder", sorted(CASES.iterdir()), ids=lambda folder: folder.name)
def test_inventories_as_they_are_written(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    file = next(entry for entry in folder.iterdir() if entry.name.startswith("hosts."))
    inventory, problems = read(str(file))
    found = [problem.removeprefix(f"{file}:").strip() for problem in problems]
    assert found == expected.get("problems", [])
    assert {group: members(inventory, group) for group in expected.get("groups", {})} == expected.get("groups", {})
    for host, variables in expected.get("vars", {}).items():
        shown = {
            str(name): str(value) if isinstance(value, Sealed) else value
            for name, value in inventory.variables(host).items()
        }
        assert shown == variables, host
    told = [f"{one.message}{f'; {one.hint}' if one.hint else ''}" for one in inventory.warnings]
    assert told == expected.get("warnings", [])


def test_a_folder_of_inventories_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.ini").write_text("[web]\nweb1\n")
    (tmp_path / "b.yml").write_text("web: {hosts: {web2: {}}}\n")
    (tmp_path / "notes.md").write_text("[not an inventory\n")
    inventory, problems = read(str(tmp_path))
    assert (members(inventory, "web"), problems) == ("web[1-2]", [])


def test_the_later_source_is_the_stronger_and_says_what_it_overrode(tmp_path: Path) -> None:
    (tmp_path / "1.ini").write_text("[web]\nweb1 a=1 b=1\n")
    (tmp_path / "2.ini").write_text("[web]\nweb1 a=2\n")
    inventory, _ = read(str(tmp_path / "1.ini"), str(tmp_path / "2.ini"))
    one = inventory.sourced("web1")["a"]
    assert (one.value, one.place.file, one.place.line) == (2, str(tmp_path / "2.ini"), 2)
    assert [setting.place.file for _owner, setting in one.overridden] == [str(tmp_path / "1.ini")]
    assert inventory.variables("web1")["b"] == 1


def test_children_are_stronger_than_parents_and_priority_decides_between_equals(tmp_path: Path) -> None:
    (tmp_path / "i.ini").write_text(
        "[a]\nh\n[b]\nh\n[top:children]\na\n[top:vars]\nx=top\ny=top\n[a:vars]\nx=a\nansible_group_priority=5\n[b:vars]\nx=b\n"
    )
    inventory, _ = read(str(tmp_path / "i.ini"))
    # a is deeper than b: it hangs below top.
    assert inventory.variables("h") == {"x": "a", "y": "top", "ansible_group_priority": 5}


OWN = """
fleet:
  sources:
    - ansible: hosts.ini
  hosts:
    web[01-02]: {user: deploy, labels: {rack: "7"}, vars: {size: 3}}
    box: {connection: local}
  groups:
    web: {port: 2222, labels: {team: shop}}
    eu: {children: [web], hosts: [box]}
"""


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dogwatch.yaml"
    path.write_text(text)
    return path


def test_our_own_section_joins_its_sources_and_is_stronger(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text(
        "[web]\nweb01 ansible_user=old ansible_port=1\nweb03\n[web:vars]\nansible_port=9\n"
    )
    loaded = Loader([own(tmp_path, OWN)], [FLEET], environ={}).load()
    inventory = load_inventory(loaded.get(FLEET), loaded.origin)
    assert list(inventory.hosts) == ["web01", "web03", "web02", "box"]
    assert inventory.variables("web01") == {"ansible_user": "deploy", "ansible_port": 1, "size": 3}
    assert inventory.variables("web03")["ansible_port"] == 2222
    assert inventory.labels("web01") == {"team": "shop", "rack": "7"}
    assert members(inventory, "eu") == "web[01,03],box"
    place = inventory.sourced("web01")["ansible_user"].place
    assert (place.file, place.line) == (str(tmp_path / "dogwatch.yaml"), 6)


def test_every_mistake_of_the_section_is_told_with_its_line(tmp_path: Path) -> None:
    text = (
        "fleet:\n  hosts:\n    web[3-1]: {}\n    a b: {}\n    ok: {usr: x, connection: telnet}\n"
        "  groups:\n    eu: {children: [wbe]}\n    web: {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        Loader([own(tmp_path, text)], [FLEET], environ={}).load()
    lines = [(problem.line, problem.hint) for problem in caught.value.problems]
    assert [line for line, _ in lines] == [3, 4, 5, 5, 7]
    assert any("user" in hint for _, hint in lines)
    assert lines[-1][1] == "did you mean 'web'?"


def test_children_are_looked_for_in_sources_too(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("[web]\nweb01\n")
    text = "fleet:\n  sources: [{ansible: hosts.ini}]\n  groups:\n    eu: {children: [web, wbe]}\n"
    loaded = Loader([own(tmp_path, text)], [FLEET], environ={}).load()
    _, problems = read_inventory(loaded.get(FLEET), loaded.origin)
    assert [(problem.message, problem.line) for problem in problems] == [("there is no group 'wbe'", 4)]


def test_ssh_configuration_names_hosts_through_includes(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host db1 db2\n  User x\n")
    config = tmp_path / "ssh_config"
    config.write_text("Include more\nHost gate *.example !x\n  HostName 10.0.0.1\nHost=web1\nMatch host y\nHost *\n")
    inventory, problems = read(str(config))
    assert (list(inventory.hosts), problems) == (["db1", "db2", "gate", "web1"], [])


def test_names_on_the_command_line() -> None:
    inventory, problems = read("web[1-2],db1:2222,")
    assert (list(inventory.hosts), problems) == (["web1", "web2", "db1"], [])
    assert inventory.variables("db1") == {"ansible_port": 2222}


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    from dogwatch.fleet.inventory.sources import ExecutableSource

    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nsleep 60 & sleep 60\n")
    program.chmod(0o755)
    draft = Draft("slow")
    ExecutableSource(path=str(program), timeout=0.2).read(tmp_path, draft)
    assert [problem.message for problem in draft.problems] == ["took longer than 200ms"]


def test_an_address_that_is_none_is_a_problem() -> None:
    draft = Draft("url")
    UrlSource(url="file:///etc/passwd").read(Path(), draft)
    UrlSource(url="http://127.0.0.1:1/x").read(Path(), draft)
    assert ["no http" in problem.message or "cannot be fetched" in problem.message for problem in draft.problems] == [
        True,
        True,
    ]


def test_ten_thousand_hosts_are_read_within_a_second(tmp_path: Path) -> None:
    import time

    from dogwatch.fleet.targets import choose

    lines = [
        f"[g{group}]\n" + "".join(f"h{group}-{at} ansible_host=10.0.{group}.{at} a=1\n" for at in range(100))
        for group in range(100)
    ]
    (tmp_path / "big.ini").write_text("".join(lines))
    begun_s = time.process_time()
    inventory, _ = read(str(tmp_path / "big.ini"))
    chosen = choose("a=1&!@g7,!h1-[1-50]", inventory)
    # The promise is one second of an idle machine; CPU time leaves out the neighbours of this one.
    assert (len(chosen), time.process_time() - begun_s < 2.0) == (9850, True)


@given(st.text("ab01.9 \t=\"'\\#{[-_ü\u00a0\x0b", max_size=30))
def test_the_short_ways_of_ini_lead_where_the_long_ones_do(text: str) -> None:
    if ini._PLAIN_WORDS.fullmatch(text):
        assert text.split() == shlex.split(text, comments=True)
    if ini._NUMBER.fullmatch(text):
        assert ast.literal_eval(text) == int(text)
    if ini._ADDRESS.fullmatch(text):
        with pytest.raises(SyntaxError):
            ast.literal_eval(text)


@given(st.from_regex(r"[0-9.]{1,20}", fullmatch=True))
def test_numbers_and_addresses_mean_what_python_says(text: str) -> None:
    try:
        expected = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        expected = text
    assert ini.parse_value(text) == (text if expected is ... else expected)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_program_is_found_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inventory").mkdir()
    program(
        tmp_path / "inventory" / "hosts.sh",
        'echo "{\\"g\\": [\\"$(basename "$PWD")\\"], \\"_meta\\": {\\"hostvars\\": {}}}"',
    )
    monkeypatch.chdir(tmp_path)
    inventory, problems = read("inventory/hosts.sh")
    assert (list(inventory.hosts), problems) == (["inventory"], [])


def test_a_program_is_asked_for_its_own_hosts_only(tmp_path: Path) -> None:
    (tmp_path / "01-static").write_text("[web]\nw1\nb\n")
    program(
        tmp_path / "02.sh",
        'if [ "$1" = --list ]; then echo \'{"g": ["a", "b"]}\'; else echo "{\\"me\\": \\"$2\\"}"; fi',
    )
    inventory, problems = read(str(tmp_path))
    assert problems == []
    assert {host: inventory.variables(host).get("me") for host in inventory.hosts} == {"w1": None, "b": "b", "a": "a"}


def test_variables_of_hosts_in_no_group_are_told_and_passed_over(tmp_path: Path) -> None:
    listing = {"g": ["a"], "_meta": {"hostvars": {"a": {"x": 1}, "b": {"x": 2}, "c": {}}}}
    path = program(tmp_path / "hosts.sh", f"echo '{json.dumps(listing)}'")
    inventory, problems = read(str(path))
    assert (list(inventory.hosts), problems) == (["a"], [])
    assert [one.message for one in inventory.warnings] == [
        "variables of hosts that are in no group are passed over: 'b' and 1 more"
    ]


def test_a_range_that_is_not_closed_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("web[1:3\nok\n")
    inventory, problems = read(str(tmp_path / "hosts.ini"))
    assert list(inventory.hosts) == ["ok"]
    assert "hosts.ini:1: 'web[1:3' cannot be the name of a host: it holds a bracket" in problems[0]


def test_commands_in_an_ssh_configuration_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ssh_config"
    path.write_text("Host a b\n  ProxyCommand it's \"open\n  HostName x\nHost 'c\nHost d*\n")
    inventory, problems = read(str(path))
    assert list(inventory.hosts) == ["a", "b"]
    assert problems == [f"{path}:4: cannot be read: no closing quotation"]
