"""The inspection over real servers and this machine: told by finding, kept, judged again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.integration.fleet.servers import USER, Sshd, free_port

from dogwatch.cli.fleet import fleet
from dogwatch.errors import DogwatchError


@pytest.fixture
def options(server: Sshd, tmp_path: Path, known_hosts: Path) -> list[str]:
    (tmp_path / "hosts.ini").write_text(
        f"web[1:2] ansible_host=127.0.0.1 ansible_port={server.port}\nhere ansible_connection=local\n"
        f"dead ansible_host=127.0.0.1 ansible_port={free_port()}\n"
        f"[all:vars]\nansible_user={USER}\nansible_ssh_private_key_file={server.key}\n"
    )
    (tmp_path / "empty").write_text("IdentityAgent none\n")
    return ["-i", f"{tmp_path}/hosts.ini", "--known-hosts", str(known_hosts), "--ssh-config", f"{tmp_path}/empty"]


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(fleet, words, standalone_mode=False)
    if isinstance(done.exception, DogwatchError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None, done.exception
    return int(done.return_value or 0), done.stdout


def quick(*options: str) -> list[str]:
    checks = ["time", "memory", "disk", "load"]
    return ["inspect", "-t", "all", *(word for check in checks for word in ("--check-only", check)), *options]


def test_hosts_are_looked_at_kept_and_judged_again(options: list[str]) -> None:
    code, text = invoke(*quick(*options, "--disk", "0%", "--load", "1e9", "--offset", "1h"))
    assert code == 3
    assert "3 hosts looked at, 3 with something serious, 1 not reached" in text
    assert "disk above 0%: 3 hosts" in text
    assert "refused: 127.0.0.1" in text
    code, text = invoke(*quick(*options, "--disk", "100%", "--memory", "100%", "--json"))
    answer = json.loads(text)
    assert code == 3
    seen = {one["host"]: one for one in answer["hosts"]}
    assert (seen["dead"]["state"], seen["dead"]["values"]) == ("refused", None)
    assert seen["web1"]["reading"]["complete"] is True
    assert abs(seen["web1"]["values"]["time_offset_s"]) < 1.0
    again = ["inspect", "--again", answer["run"], "--json", "--disk", "0%"]
    _, later = invoke(*again)
    findings = {one["host"]: one["findings"] for one in json.loads(later)["hosts"]}
    assert any(finding["check"] == "disk" for finding in findings["web2"])
    assert invoke(*quick("-i", options[1], "--disk", "0%", "--exit-code", "--limit", "here"))[0] == 1


def test_questions_are_expressions(options: list[str]) -> None:
    code, text = invoke(*quick(*options, "--where", "disk_used_ratio > 0.0 && memory_used_ratio <= 1.0"))
    assert (code, "3 of 4 hosts" in text) == (3, True)
    _, text = invoke(*quick(*options, "--where", "disk_used_ratio > 1.0"))
    assert "0 of 4 hosts" in text
    # Nothing is known of it: that is not the same as that it does not hold.
    assert "not reached: 1 host\n  dead  refused" in text
    _, text = invoke(*quick(*options, "--where", "disk_used_ratio > 1.0", "--json"))
    assert (json.loads(text)["hosts"], json.loads(text)["not_reached"]) == ([], ["dead"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspect", "-t", "all", "--check-only", "dsik"], 2, "no check 'dsik'"),
        (["inspect", "-t", "all", "--where", "nope > 1"], 2, "--where"),
        (["inspect", "-t", "all", "--certificate", "/a;b"], 2, "is not a path"),
        (["inspect"], 2, "on which hosts"),
    ],
)
def test_misuse_is_told(options: list[str], words: list[str], code: int, message: str) -> None:
    found, text = invoke(*words, *options)
    assert (found, message in text) == (code, True), text


def test_another_run_is_no_inspection(options: list[str]) -> None:
    _, text = invoke("run", "true", "-t", "here", "-i", options[1], "--json")
    code, message = invoke("inspect", "--again", json.loads(text)["run"])
    assert (code, "was no inspection" in message) == (2, True)
