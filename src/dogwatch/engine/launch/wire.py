"""What worker, guard and shepherds say to each other: one packet of a SOCK_SEQPACKET pair for each message.

worker → guard:
    (START, number, spec)            with descriptors stdin, stdout, stderr; a long spec comes in a fourth, spec is None
    (KILL, number, at_once)
guard and shepherds → worker:
    (ENDED, number, wait status, cpu seconds, max rss in bytes, why it was killed)
    (FAILED, number, where, errno)   it did not start
    (LOST, number)                   its shepherd was killed; its processes are gone
    (STUCK, number, process ids)     these do not die; ENDED follows if they ever do
guard → shepherd: START, as it came. shepherd → guard: (IDLE,), it has nothing below it and takes another.

A worker that closes its side wants everything gone. Its other side is closed by whoever goes last: end of file says
that no process of this guard is left.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
from collections.abc import Sequence

START, KILL, ENDED, FAILED, LOST, STUCK, IDLE = range(1, 8)

# Why a program was killed: asked (the worker wanted it), lease (it ran out), worker and guard (they died).
ASKED, LEASE, WORKER, GUARD = "asked", "lease", "worker", "guard"

# Of a packet; a script, or an environment, that is longer goes through memory that both see.
_PACKET_BYTES = 32 * 1024
_LONGEST_BYTES = 64 * 1024
_DESCRIPTORS = 4

# marshal: both sides are the same interpreter, and nobody else has the socket.
Message = tuple[object, ...]


def encode(message: Message) -> bytes:
    return marshal.dumps(message)  # type: ignore[arg-type]


def send(sock: socket.socket, packet: bytes, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([packet], rights, flags)


def receive(sock: socket.socket, flags: int = 0) -> tuple[Message | None, list[int]]:
    """Return a message and the descriptors that came with it; None at the end."""
    room = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    packet, ancillary, _, _ = sock.recvmsg(_LONGEST_BYTES, room, flags | socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    if not packet:
        return None, list(found)
    return marshal.loads(packet), list(found)  # noqa: S302


def in_memory(data: bytes, name: str) -> int:
    """Return a descriptor of an anonymous file with this content, to be read from its start."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def start_packet(number: int, spec: dict[str, object]) -> tuple[bytes, int]:
    """Return the packet that starts a program, and the descriptor that must go with it as the fourth; -1 for none."""
    packet = encode((START, number, spec))
    if len(packet) <= _PACKET_BYTES:
        return packet, -1
    return encode((START, number, None)), in_memory(marshal.dumps(spec), "dogwatch-spec")


def read_spec(descriptor: int) -> dict[str, object]:
    """Return the spec that came in memory."""
    data = b""
    while more := os.pread(descriptor, 1 << 20, len(data)):
        data += more
    spec: dict[str, object] = marshal.loads(data)  # noqa: S302
    return spec
