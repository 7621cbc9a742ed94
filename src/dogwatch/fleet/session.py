"""Work on one host over a connection that is kept: commands, files read and replaced whole, and what a path is."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import AsyncIterator, Mapping

import msgspec

from dogwatch.errors import DogwatchError
from dogwatch.fleet.connection import OUTPUT_BYTES, Become, Connection, Ended, HostFailed, RemoteCommand, State
from dogwatch.fleet.login import Login
from dogwatch.fleet.pool import Pool

READ_BYTES = 16 * 1024 * 1024
_ABSENT = 44
_TIDY_S = 10.0
_KINDS = {0o100000: "file", 0o040000: "directory", 0o120000: "link"}


class CommandFailed(DogwatchError):
    """A command on a host ended badly where it had to go well. `ended` is how."""

    code = "command_failed"

    def __init__(self, host: str, ended: Ended) -> None:
        lines = (ended.stderr or ended.stdout).decode(errors="replace").strip().splitlines()
        how = f"exit code {ended.exit_code}" if ended.state is State.NON_ZERO else ended.note or str(ended.state)
        super().__init__(f"{host}: {how}{f': {lines[-1][:300]}' if lines else ''}")
        self.ended = ended


class FileStat(msgspec.Struct, frozen=True, kw_only=True):
    """What a path is; links are not followed. kind: file, directory, link, other. target: of a link."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    user: str
    group: str
    target: str = ""


class Session:
    """One host. Commands and files are as the login's `become` says, where a call does not say otherwise."""

    def __init__(self, login: Login, connection: Connection) -> None:
        self.login = login
        self.connection = connection

    @property
    def host(self) -> str:
        return self.login.host

    async def run(
        self,
        script: str,
        *,
        env: Mapping[str, str] = {},
        stdin: bytes | None = None,
        become: Become | None = None,
        timeout_s: float | None = 60.0,
        limit_bytes: int = OUTPUT_BYTES,
    ) -> Ended:
        """Run a script for /bin/sh. A bad end is a result. Raises: HostFailed where it is not carried there."""
        command = RemoteCommand(
            script=script,
            env=env,
            stdin=None if stdin is None else _pieces(stdin),
            become=become or self.login.become,
            timeout_s=timeout_s,
            limit_bytes=limit_bytes,
        )
        return await self.connection.run(command)

    async def must(self, script: str, *, timeout_s: float | None = 60.0, stdin: bytes | None = None) -> bytes:
        """Run a script and return what it said on stdout. Raises: HostFailed, CommandFailed unless it went well."""
        ended = await self.run(script, stdin=stdin, timeout_s=timeout_s, limit_bytes=2 * READ_BYTES)
        return self._well(ended).stdout

    async def read(self, path: str, *, most_bytes: int = READ_BYTES, timeout_s: float | None = 60.0) -> bytes | None:
        """Return what a file holds, None where there is none. Raises: HostFailed, CommandFailed."""
        name = _path(path)
        script = f"[ -e {name} ] || [ -L {name} ] || exit {_ABSENT}; head -c {most_bytes + 1} < {name}"
        ended = await self.run(script, timeout_s=timeout_s, limit_bytes=2 * most_bytes + 4)
        if ended.exit_code == _ABSENT:
            return None
        data = self._well(ended).stdout
        if len(data) > most_bytes:
            raise HostFailed(State.MISCONFIGURED, f"{path} on {self.host} is larger than {most_bytes} bytes")
        return data

    async def write(
        self,
        path: str,
        data: bytes,
        *,
        mode: int = 0o644,
        owner: str = "",
        group: str = "",
        timeout_s: float | None = 60.0,
    ) -> None:
        """Replace a file whole: it is written beside its place and renamed into it. Raises: HostFailed, CommandFailed.

        A connection that is lost looks like the end of the data over there: what is shorter than it is thrown away.
        """
        target, part = _path(path), _path(f"{path}.dogwatch-{secrets.token_hex(6)}")
        who = f"{owner}:{group}" if group else owner
        chown = f"chown {shlex.quote(who)} {part} && " if who else ""
        script = (
            f"umask 077; trap 'rm -f {_twice(part)}' EXIT; trap 'exit 143' TERM HUP INT; "
            f'cat > {part} && {{ [ "$(wc -c < {part})" -eq {len(data)} ] || '
            f"{{ echo 'the file did not arrive whole' >&2; false; }}; }} && "
            f"{chown}chmod {mode:o} {part} && mv -fT {part} {target}"
        )
        ended = await self.run(script, stdin=data, timeout_s=timeout_s)
        if ended.state is State.TIMED_OUT:
            # On a slow line the signal may come so late that it was killed before it could tidy up.
            with contextlib.suppress(HostFailed):
                await self.run(f"rm -f {part}", timeout_s=_TIDY_S)
        self._well(ended)

    async def stat(self, path: str, *, timeout_s: float | None = 60.0) -> FileStat | None:
        """Return what a path is, None where there is nothing. Raises: HostFailed, CommandFailed."""
        name = _path(path)
        script = (
            f"[ -e {name} ] || [ -L {name} ] || exit {_ABSENT}; "
            f"stat -c '%f %u %g %s %Y %U %G' -- {name} && {{ [ ! -L {name} ] || readlink -- {name}; }}"
        )
        ended = await self.run(script, timeout_s=timeout_s)
        if ended.exit_code == _ABSENT:
            return None
        first, _, target = self._well(ended).stdout.decode(errors="surrogateescape").partition("\n")
        mode, uid, gid, size, mtime_s, user, group = first.split(" ", 6)
        raw = int(mode, 16)
        return FileStat(
            kind=_KINDS.get(raw & 0o170000, "other"),
            mode=raw & 0o7777,
            uid=int(uid),
            gid=int(gid),
            size=int(size),
            mtime_s=int(mtime_s),
            user=user,
            group=group,
            target=target.removesuffix("\n"),
        )

    def _well(self, ended: Ended) -> Ended:
        if ended.state is not State.SUCCEEDED:
            raise CommandFailed(self.host, ended)
        return ended


@contextlib.asynccontextmanager
async def session(pool: Pool, login: Login) -> AsyncIterator[Session]:
    """Lend a host for a block; its connection is kept for the next one. Raises: HostFailed."""
    async with pool.connection(login) as connection:
        yield Session(login, connection)


def _path(path: str) -> str:
    """Return a path for the shell; one that begins with `-` is no option of anything."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _twice(quoted: str) -> str:
    """Return what was quoted for the shell once more, to stand between single quotes."""
    return quoted.replace("'", "'\"'\"'")


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data
