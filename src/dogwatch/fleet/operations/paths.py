"""What lies at a path of a host."""

from __future__ import annotations

import hashlib
import posixpath
import shlex
from typing import ClassVar

import msgspec

from dogwatch.fleet.operations.state import CannotRead, Fact, Need

# Of what is longer only the digest is read: no diff, and no edits in it.
CONTENT_BYTES = 1024 * 1024
# sh functions that the scripts of needs call.
PRELUDE = r"""p() {
  if [ -L "$1" ]; then stat -c 'link %a %u %g %s %U:%G' "$1" && readlink "$1"
  elif [ -f "$1" ]; then
    if [ ! -r "$1" ]; then echo denied; return; fi
    s=$(stat -c '%a %u %g %s %U:%G' "$1") || return
    printf 'file %s\n' "$s"; s=${s#* * * }; s=${s%% *}
    [ "$2" = 1 ] || return 0
    if [ "$s" -le CONTENT ]; then printf 'content\n'; cat "$1"; else sha256sum < "$1"; fi
  elif [ -d "$1" ]; then stat -c 'directory %a %u %g 0 %U:%G' "$1"
  elif [ -e "$1" ]; then stat -c 'other %a %u %g 0 %U:%G' "$1"
  else
    d=$1
    while [ -n "$d" ] && [ ! -e "$d" ]; do d=${d%/*}; done
    if [ -d "${d:-/}" ] && [ ! -x "${d:-/}" ]; then echo denied; else echo absent; fi
  fi
}
""".replace("CONTENT", str(CONTENT_BYTES))


class PathFact(Fact, frozen=True, kw_only=True):
    """What lies there. type: absent, file, directory, link or other. mode: permissions.

    uid and gid: None where only the name is known yet. target: of a link. sha256: of a file's content.
    """

    type: str = "absent"
    mode: int = 0
    owner: str = ""
    group: str = ""
    uid: int | None = None
    gid: int | None = None
    target: str = ""
    sha256: str = ""
    content: bytes | None = None

    def seal(self) -> str:
        # Without numbers and content: what was decided knows neither a new user's number nor a long file's bytes.
        plain = (self.type, self.mode, self.owner, self.group, self.target, self.sha256)
        return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()[:32]


class PathNeed(Need[PathFact], frozen=True, kw_only=True, tag="path"):
    """What lies at a path; of a file its content, too, where that is asked for, or the digest of a long one."""

    prelude: ClassVar[str] = PRELUDE
    tidy: ClassVar[bool] = True
    path: str
    content: bool = False

    @property
    def key(self) -> str:
        return f"path {self.path}"

    def script(self) -> str:
        return f"p {shlex.quote(self.path)} {int(self.content)}"

    def joined(self, other: PathNeed) -> PathNeed:
        return self if self.content else other

    def parse(self, raw: bytes) -> PathFact:
        head, _, rest = raw.partition(b"\n")
        line = head.decode(errors="backslashreplace")
        if line == "absent":
            return PathFact()
        if line == "denied":
            raise CannotRead(f"{self.path}: permission denied", hint="become: true reads and changes as root")
        words = line.split(" ", 5)
        if len(words) != 6 or words[0] not in ("file", "directory", "link", "other"):
            raise CannotRead(f"{self.path} cannot be read: {line[:100] or 'stat failed'}")
        owner, _, group = words[5].partition(":")
        fact = PathFact(
            type=words[0], mode=int(words[1], 8), uid=int(words[2]), gid=int(words[3]), owner=owner, group=group
        )
        if fact.type == "link":
            target = rest.removesuffix(b"\n").decode(errors="backslashreplace")
            return msgspec.structs.replace(fact, mode=0o777, target=target)
        if fact.type == "file":
            return self._filled(fact, rest)
        return fact

    def _filled(self, fact: PathFact, rest: bytes) -> PathFact:
        if rest.startswith(b"content\n"):
            content = rest.removeprefix(b"content\n")
            return msgspec.structs.replace(fact, content=content, sha256=digest(content))
        if not self.content:
            return fact
        sha256 = rest[:64].decode(errors="replace")
        if len(rest.split()) != 2 or len(sha256) != 64:
            raise CannotRead(f"{self.path}: its digest cannot be made", hint="sha256sum must be there")
        return msgspec.structs.replace(fact, sha256=sha256)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parent(path: str) -> str:
    return posixpath.dirname(path)


def above(path: str) -> list[str]:
    """Return the folders above a path, the outermost first, without the root."""
    found: list[str] = []
    at = parent(path)
    while at not in ("/", ""):
        found.append(at)
        at = parent(at)
    return found[::-1]


def path_fault(path: str) -> str:
    """Return why a text cannot be the path of something on a host, or ""."""
    if not path.startswith("/"):
        return "must be an absolute path"
    if "\0" in path or "\n" in path:
        return "cannot hold line ends"
    if posixpath.normpath(path) != path:
        return "has '.', '..' or needless slashes in it"
    return "must not be the root" if path == "/" else ""
