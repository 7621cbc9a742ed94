from __future__ import annotations

import asyncio
import errno
import os

import pytest

from dogwatch.engine.launch import wire
from dogwatch.engine.launch.command import Command, User, clean_environment, describe, exit_status, start_failure
from dogwatch.engine.launch.launcher import _meaning, _until_gone
from dogwatch.errors import DogwatchError, PermanentError, TransientError

WWW = User(name="www", home="/srv/www", shell="/bin/false", uid=33, gid=33, groups=(33, 4))
MAKE = Command(args=["make", "all"], cwd="/srv", user="www")


def test_only_what_is_harmless_is_inherited() -> None:
    daemon = {"PATH": "/bin", "TZ": "UTC", "LC_ALL": "C", "DATABASE_URL": "secret", "HTTPS_PROXY": "http://a:b@c"}
    assert clean_environment(daemon, None) == {"PATH": "/bin", "TZ": "UTC", "LC_ALL": "C"}


def test_there_is_always_a_path() -> None:
    assert "/usr/bin" in clean_environment({}, None)["PATH"].split(":")


def test_another_user_has_its_own_home() -> None:
    daemon = {"PATH": "/bin", "HOME": "/root", "USER": "root", "TMPDIR": "/run/private"}
    expected = {"PATH": "/bin", "HOME": "/srv/www", "USER": "www", "LOGNAME": "www", "SHELL": "/bin/false"}
    assert clean_environment(daemon, WWW) == expected


def test_a_program_is_looked_for_in_its_own_path() -> None:
    spec = describe(Command(args=["x"], env={"PATH": "/a::/b"}), None, {})
    assert spec["paths"] == [b"/a/x", b"./x", b"/b/x"]
    assert describe(Command(args=["./x"]), None, {})["paths"] == [b"./x"]


def test_marks_cannot_be_overridden() -> None:
    spec = describe(Command(args=["x"], env={"MARK": "forged"}), None, {"MARK": "true"})
    assert spec["env"][b"MARK"] == b"true"  # type: ignore[index]


def test_names_that_are_no_text_come_through() -> None:
    spec = describe(Command(args=["x", os.fsdecode(b"\xff")]), None, {})
    assert spec["args"] == [b"x", b"\xff"]


@pytest.mark.parametrize(
    ("where", "number", "kind", "text"),
    [
        ("exec", errno.ENOENT, PermanentError, "cannot run make: no such file or directory"),
        ("exec", errno.EAGAIN, TransientError, "cannot run make: resource temporarily unavailable"),
        ("fork", errno.ENOMEM, TransientError, "cannot run make: cannot allocate memory"),
        ("cwd", errno.EACCES, PermanentError, "cannot run make in /srv: permission denied"),
        ("user", errno.EPERM, PermanentError, "cannot run make as user 'www': operation not permitted"),
        ("limits", errno.EPERM, PermanentError, "cannot run make: a limit was refused: operation not permitted"),
        ("interpreter", errno.ENOENT, PermanentError, "interpreter of its first line"),
    ],
)
def test_why_it_did_not_start(where: str, number: int, kind: type[DogwatchError], text: str) -> None:
    error = start_failure(MAKE, where, number)
    assert type(error) is kind
    assert text in str(error)


def test_how_it_ended() -> None:
    status = exit_status((wire.ENDED, 1, 7 << 8, 0.5, 4096, ""), b"a=1")
    assert (status.code, status.signal, status.cpu_s, status.max_rss_bytes, status.answer) == (7, 0, 0.5, 4096, b"a=1")
    assert exit_status((wire.ENDED, 1, 9, 0.0, 0, ""), b"").code == 137


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ((wire.LOST, 1), TransientError, "the process that watched make was killed"),
        ((wire.STUCK, 1, (7, 8)), PermanentError, r"these processes do not die: \(7, 8\)"),
        ((wire.FAILED, 1, wire.LEASE, 0), TransientError, "did not renew its lease"),
        ((wire.FAILED, 1, "exec", errno.ENOENT), PermanentError, "no such file"),
        ((wire.ENDED, 1, 9, 0.0, 0, wire.LEASE), TransientError, "did not renew its lease"),
        # Also one that had just succeeded: what it left behind was killed, and the run is not ours any more.
        ((wire.ENDED, 1, 0, 0.0, 0, wire.GUARD), TransientError, "guard process"),
        ((wire.ENDED, 1, 0, 0.0, 0, wire.ASKED), TransientError, "the worker stops"),
    ],
)
def test_an_end_that_is_not_its_own(message: wire.Message, kind: type[DogwatchError], text: str) -> None:
    with pytest.raises(kind, match=text):
        _meaning(MAKE, message, b"")


class Orders:
    """A link that only listens."""

    def __init__(self) -> None:
        self.kills: list[tuple[int, bool]] = []

    def kill(self, number: int, *, at_once: bool) -> None:
        self.kills.append((number, at_once))


async def test_a_process_that_does_not_die_does_not_hold_up_a_cancel(caplog: pytest.LogCaptureFixture) -> None:
    link, end = Orders(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_until_gone(link, 5, end))  # type: ignore[arg-type]
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    end.set_result((wire.STUCK, 5, (77,)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert link.kills == [(5, False), (5, True), (5, True)]
    assert "(77,) do not die" in caplog.text
