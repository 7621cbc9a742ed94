"""The small parts that the guard process stands on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import dogwatch
from dogwatch.engine.launch import tree, wire
from dogwatch.engine.launch.system import Lease, boottime_s


def test_a_lease() -> None:
    lease = Lease.create()
    assert lease.remaining_s() is None
    lease.set(boottime_s() + 10)
    other = Lease(os.dup(lease.descriptor))  # as a shepherd has it
    assert 9 < (other.remaining_s() or 0) <= 10
    lease.set(boottime_s() - 1)
    assert (other.remaining_s() or 0) < 0
    lease.set(None)
    assert other.remaining_s() is None
    lease.close()
    other.close()


def test_messages_bring_their_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        given = wire.in_memory(b"content", "test")
        wire.send(ours, wire.encode((wire.KILL, 7, True)), [given] * 4)
        os.close(given)
        message, descriptors = wire.receive(theirs)
        assert message == (wire.KILL, 7, True)
        assert len(descriptors) == 4
        assert os.read(descriptors[3], 100) == b"content"
        assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        ours.shutdown(socket.SHUT_WR)
        assert wire.receive(theirs) == (None, [])


@pytest.mark.parametrize(("size", "in_memory"), [(10, False), (30_000, False), (40_000, True), (3_000_000, True)])
def test_a_spec_of_any_size_comes_through(size: int, in_memory: bool) -> None:
    spec: dict[str, object] = {"args": [b"x" * size]}
    packet, descriptor = wire.start_packet(1, spec)
    assert len(packet) < 64 * 1024
    assert (descriptor >= 0) == in_memory
    if in_memory:
        assert wire.read_spec(descriptor) == spec
        os.close(descriptor)


def test_descendants_are_found_with_names_that_mislead(tmp_path: Path) -> None:
    program = tmp_path / "a) 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert tree.parent_of(process.pid) == os.getpid()
            assert process.pid in tree.children(os.getpid())
            assert process.pid in tree._children_by_scan(os.getpid())
            assert process.pid in tree.descendants(os.getpid())
            assert process.pid not in tree.descendants(os.getpid(), {process.pid})
        finally:
            process.kill()
    assert tree.parent_of(process.pid) == 0


def test_a_number_that_is_a_strangers_by_now_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not tree._send(process.pid, {1}, (tree.signal.SIGKILL,))
            assert process.poll() is None
            assert tree._send(process.pid, {os.getpid()}, (tree.signal.SIGKILL,))
            assert process.wait(5) == -9
        finally:
            process.kill()


def test_what_the_guard_imports_is_little() -> None:
    script = (
        "import sys; sys.path.append(sys.argv[1]); import dogwatch.engine.launch.guard; print(*sys.modules, sep='\\n')"
    )
    root = str(Path(dogwatch.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, root], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert {name for name in modules if name.startswith("dogwatch")} == {
        "dogwatch",
        "dogwatch.engine",
        "dogwatch.engine.launch",
        *(f"dogwatch.engine.launch.{part}" for part in ("guard", "shepherd", "system", "tree", "wire")),
    }
    heavy = {"asyncio", "subprocess", "threading", "logging", "pathlib", "json", "typing_extensions", "msgspec", "re"}
    assert not heavy & modules
