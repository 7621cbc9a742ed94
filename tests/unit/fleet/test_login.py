"""From variables to how a host is reached."""

from __future__ import annotations

import pytest

from dogwatch.fleet.connection import HostFailed, shell_line
from dogwatch.fleet.inventory.lined import SEALED
from dogwatch.fleet.login import login_of


def test_ansible_names() -> None:
    login = login_of(
        "web1",
        {
            "ansible_ssh_host": "10.0.0.1",
            "ansible_port": "2222",
            "ansible_user": "{{ deploy_user }}",
            "deploy_user": "deploy",
            "ansible_ssh_pass": "x",
            "ansible_become": "yes",
            "ansible_become_pass": "y",
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -J gate -o 'ProxyCommand ssh -W %h:%p x' -C",
        },
    )
    assert (login.address, login.port, login.user, login.password, login.jump) == (
        "10.0.0.1",
        2222,
        "deploy",
        "x",
        "gate",
    )
    assert login.become is not None
    assert (login.become.method, login.become.user, login.become.password) == ("sudo", "root", "y")
    assert login.options == {"stricthostkeychecking": "no", "proxycommand": "ssh -W %h:%p x"}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ansible_connection": "winrm"}, "no connection 'winrm'"),
        ({"ansible_port": "ssh"}, "not a port"),
        ({"ansible_port": 70000}, "not a port"),
        ({"ansible_password": SEALED}, "sealed by Ansible Vault"),
        ({"ansible_user": "{{ lookup('env', 'USER') }}"}, "not worked out here"),
        ({"ansible_user": "{{ a }}", "a": "{{ b }}", "b": "{{ a }}"}, "has no value"),
        ({"ansible_ssh_common_args": "-o 'x"}, "cannot be read"),
        ({"ansible_ssh_extra_args": "--nonsense"}, "not understood"),
    ],
)
def test_what_cannot_be_known_is_not_guessed(variables: dict[str, object], told: str) -> None:
    with pytest.raises(HostFailed) as caught:
        login_of("web1", variables)
    assert told in str(caught.value)


def test_only_octal_reaches_shells_that_would_read_more() -> None:
    line = shell_line("echo 'a!b'\nprintf '\\n'")
    assert line.startswith("exec /bin/sh -c ")
    assert "!" not in line
    assert "\n" not in line
