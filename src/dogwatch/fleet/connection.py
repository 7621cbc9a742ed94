"""The connection seam: what every way to reach a host can do, and the words for how it ended."""

from __future__ import annotations

import abc
import enum
import re
import shlex
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from dogwatch.errors import DogwatchError

OUTPUT_BYTES = 256 * 1024
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class State(enum.StrEnum):
    """How it went on one host. Each is another thing to do for whoever reads it."""

    SUCCEEDED = "succeeded"
    NON_ZERO = "non-zero"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    UNKNOWN_HOST_KEY = "unknown host key"
    WRONG_HOST_KEY = "wrong host key"
    AUTHENTICATION_FAILED = "authentication failed"
    LOST = "connection lost"
    BECOME_FAILED = "become failed"
    MISCONFIGURED = "misconfigured"
    CANCELLED = "cancelled"
    NOT_STARTED = "not started"


# Where nothing of the command was run: another try repeats nothing.
UNTOUCHED = frozenset(
    {
        State.REFUSED,
        State.UNREACHABLE,
        State.UNKNOWN_HOST_KEY,
        State.WRONG_HOST_KEY,
        State.AUTHENTICATION_FAILED,
        State.BECOME_FAILED,
        State.MISCONFIGURED,
        State.NOT_STARTED,
    }
)


class HostFailed(DogwatchError):
    """It could not be done on this host; `state` is the word for why."""

    code = "host_failed"

    def __init__(self, state: State, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.state = state


class NotBegun(HostFailed):
    """The connection turned out to be gone before anything of the command was begun: another may carry it."""


class Become(msgspec.Struct, frozen=True, kw_only=True):
    """Runs a command as another user. password: it goes through a prompt, nowhere else; None for none."""

    method: str = "sudo"
    user: str = "root"
    password: str | None = None


class RemoteCommand(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. script: for /bin/sh. stdin: given to it in pieces. limit_bytes: kept of each stream."""

    script: str
    env: Mapping[str, str] = {}
    stdin: AsyncIterator[bytes] | None = None
    become: Become | None = None
    timeout_s: float | None = 60.0
    grace_s: float = 2.0
    limit_bytes: int = OUTPUT_BYTES


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. cut: bytes that were not kept of stdout and stderr. note: what else is to be known."""

    state: State
    exit_code: int | None = None
    signal: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    cut: tuple[int, int] = (0, 0)
    note: str = ""


# Called with the name of a stream and what came on it.
Output = Callable[[str, bytes], None]


class Connection(abc.ABC):
    """An open way to one host. It is used by one command at a time, and may be used again."""

    @property
    def alive(self) -> bool:
        """Whether another command can be tried on it."""
        return True

    @abc.abstractmethod
    async def run(self, command: RemoteCommand, output: Output | None = None) -> Ended:
        """Run a command to its end, its deadline or its cancellation; what it started there is ended with it.

        Raises: HostFailed where the connection does not carry it.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of it. It may be called twice."""

    async def put(
        self,
        data: AsyncIterator[bytes],
        path: str,
        *,
        size: int,
        mode: int = 0o644,
        become: Become | None = None,
        timeout_s: float | None = 60.0,
    ) -> Ended:
        """Write a file: beside its place first, then renamed into it, so that nobody reads half of it.

        size: of the data. A connection that is lost looks like the end of the data over there: what is shorter than
        this is thrown away.
        """
        target, part = shlex.quote(path), shlex.quote(f"{path}.dogwatch-part")
        script = (
            f"umask 077; cat > {part} && "
            f"{{ [ \"$(wc -c < {part})\" -eq {size} ] || {{ echo 'the file did not arrive whole' >&2; false; }}; }} && "
            f"chmod {mode:o} {part} && mv -f {part} {target} || {{ rm -f {part}; exit 1; }}"
        )
        return await self.run(RemoteCommand(script=script, stdin=data, become=become, timeout_s=timeout_s))

    async def get(
        self,
        path: str,
        sink: Callable[[bytes], object],
        *,
        become: Become | None = None,
        timeout_s: float | None = 60.0,
    ) -> Ended:
        """Read a file into the sink, piece by piece."""

        def output(stream: str, data: bytes) -> None:
            if stream == "stdout":
                sink(data)

        command = RemoteCommand(
            script=f"cat < {shlex.quote(path)}", become=become, timeout_s=timeout_s, limit_bytes=4096
        )
        return await self.run(command, output)


class Kept:
    """The beginning and the end of a stream, within a bound: what a program says first and last matters most."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 4 * self._half:  # not each time: moving the rest costs more than keeping it
            del self._tail[: -self._half]

    @property
    def cut(self) -> int:
        return max(0, self._size - 2 * self._half)

    def data(self) -> bytes:
        if not self.cut:
            return bytes(self._head + self._tail)
        mark = f"\n[… {self.cut} bytes are left out …]\n".encode()
        return bytes(self._head) + mark + bytes(self._tail[-self._half :])


def compose(script: str, env: Mapping[str, str]) -> str:
    """Return the script with its environment, for /bin/sh. Raises: HostFailed for a name that is none."""
    lines = []
    for name, value in env.items():
        if not VARIABLE.fullmatch(name):
            raise HostFailed(State.MISCONFIGURED, f"'{name}' cannot be the name of an environment variable")
        lines.append(f"export {name}={shlex.quote(value)}; ")
    if "\0" in script or any("\0" in value for value in env.values()):
        raise HostFailed(State.MISCONFIGURED, "a command cannot hold NUL characters")
    return "".join(lines) + script


def shell_line(script: str) -> str:
    """Return a line that makes any login shell (sh, csh, fish) hand the script to /bin/sh as it is.

    csh sees history in `!` even between single quotes and ends them at a line's end, fish reads `\\` there: a script
    with these is sent as printf's octal escapes.
    """
    if not any(char in script for char in "!\n\\"):
        return f"exec /bin/sh -c {shlex.quote(script)}"
    octal = "".join(
        char
        if char.isascii() and (char.isalnum() or char in " ./_-:;,=")
        else "".join(f"\\0{byte:03o}" for byte in char.encode(errors="surrogateescape"))
        for char in script
    )
    inner = f"eval \"$(printf %b '{octal}')\""
    return f"exec /bin/sh -c {shlex.quote(inner)}"
