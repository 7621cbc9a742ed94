"""OpenSSH's client configuration, as far as it says how a host is reached by the usual login.

Read here and not by asyncssh, which takes longer to load than most logins. What is not understood is said and never
guessed: then the general lane reads the same files.
"""

from __future__ import annotations

import fnmatch
import getpass
import glob
import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

_DEPTH = 16
_FILES = 256
_LINE = re.compile(r"(?P<keyword>[A-Za-z0-9]+)(?:\s*=\s*|\s+|$)(?P<rest>.*)")
_TOKEN = re.compile(r"%(.?)")
# About which machine a line is, or about what is not done here at all, by either lane.
_WITHOUT_EFFECT = frozenset(
    {
        "addkeystoagent", "batchmode", "channeltimeout", "checkhostip", "clearallforwardings", "compression",
        "connectionattempts", "connecttimeout", "controlmaster", "controlpath", "controlpersist", "dynamicforward",
        "enableescapecommandline", "enablesshkeysign", "escapechar", "exitonforwardfailure", "fingerprinthash",
        "forkafterauthentication", "forwardagent", "forwardx11", "forwardx11timeout", "forwardx11trusted",
        "gatewayports", "gssapiauthentication", "gssapidelegatecredentials", "gssapikeyexchange", "hashknownhosts",
        "ignoreunknown", "ipqos", "kbdinteractiveauthentication", "kbdinteractivedevices", "localcommand",
        "localforward", "loglevel", "logverbose", "nohostauthenticationforlocalhost", "numberofpasswordprompts",
        "obscurekeystroketiming", "passwordauthentication", "permitlocalcommand", "permitremoteopen", "remoteforward",
        "requesttty", "requiredrsasize", "sendenv", "serveralivecountmax", "serveraliveinterval", "sessiontype",
        "stdinnull", "streamlocalbindmask", "streamlocalbindunlink", "stricthostkeychecking", "syslogfacility",
        "tcpkeepalive", "tunnel", "tunneldevice", "updatehostkeys", "usekeychain", "visualhostkey", "xauthlocation",
    }
)  # fmt: skip
_SINGLE = frozenset(
    {"hostname", "port", "user", "identitiesonly", "identityagent", "addressfamily", "proxyjump", "proxycommand",
     "preferredauthentications", "pubkeyauthentication"}
)  # fmt: skip
_LISTS = frozenset({"userknownhostsfile", "globalknownhostsfile"})
_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_YES = {"yes": True, "true": True, "no": False, "false": False}
_USER_FILES = ("~/.ssh/known_hosts",)
_GLOBAL_FILES = ("/etc/ssh/ssh_known_hosts",)


class NotRead(Exception):
    """These files have something that only the general lane reads."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the files say of one host. plain: that is all that they say of how it is reached.

    identities: files with keys; None for those that OpenSSH tries by itself. agent: None for the environment's, "" for
    none. known_hosts: None for those that OpenSSH reads.
    """

    host: str
    port: int
    user: str
    identities: tuple[str, ...] | None
    identities_only: bool
    agent: str | None
    known_hosts: tuple[str, ...] | None
    family: int
    plain: bool


class _Line(msgspec.Struct, frozen=True):
    """words: None where they cannot be told apart. files: what an Include takes in."""

    keyword: str
    words: tuple[str, ...] | None
    files: tuple[tuple[_Line, ...], ...] = ()


class Configuration:
    """Files of OpenSSH's client, read once. Raises: NotRead."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._count = 0
        self._files = [tuple(self._read(Path(path), _base(path), 0)) for path in paths]

    def of(self, host: str, *, user: str | None, port: int | None) -> Settings:
        """Return what is said of a host; user, port: what the inventory says, which is stronger."""
        given = {name: (str(value),) for name, value in (("user", user), ("port", port)) if value is not None}
        asked = _Asked(host, getpass.getuser(), given)
        for lines in self._files:
            asked.walk(lines)
        return asked.settings()

    def _read(self, path: Path, base: Path, depth: int) -> Iterator[_Line]:
        self._count += 1
        if depth > _DEPTH or self._count > _FILES:
            raise NotRead(f"{path}: too many files")
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise NotRead(str(error)) from None
        for raw in text.splitlines():
            line = raw.strip()
            if not line or line[0] == "#":
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise NotRead(line[:80])
            keyword, words = match["keyword"].lower(), _words(match["rest"])
            if keyword in ("host", "match", "include") and not words:
                raise NotRead(line[:80])
            if keyword == "match":
                _check_criteria(words or ())
            files = tuple(self._included(words or (), base, depth)) if keyword == "include" else ()
            yield _Line(keyword, words, files)

    def _included(self, patterns: Sequence[str], base: Path, depth: int) -> Iterator[tuple[_Line, ...]]:
        for pattern in patterns:
            if "%" in pattern or "$" in pattern:
                raise NotRead(pattern)
            for found in sorted(glob.glob(str(base / Path(pattern).expanduser()))):  # noqa: PTH207
                if Path(found).is_file():
                    yield tuple(self._read(Path(found), base, depth + 1))


def _base(path: str) -> Path:
    """Return the folder of names that are not told whole in an Include."""
    return Path("/etc/ssh") if path.startswith("/etc/ssh/") else Path("~/.ssh").expanduser()


def _words(text: str) -> tuple[str, ...] | None:
    try:
        return tuple(shlex.split(text, comments=True))
    except ValueError:
        return None


def _check_criteria(words: Sequence[str]) -> None:
    rest = iter(words)
    for word in rest:
        name = word.removeprefix("!").lower()
        if name == "all":
            continue
        if name not in ("host", "originalhost", "user", "localuser") or next(rest, None) is None:
            raise NotRead(f"Match {word}")


class _Asked:
    """One host on its way through the files: the first word on everything counts."""

    def __init__(self, host: str, me: str, given: Mapping[str, tuple[str, ...]]) -> None:
        self._host, self._me = host, me
        self._found = dict(given)
        self._identities: list[str] | None = None
        self._plain = True

    def walk(self, lines: Sequence[_Line]) -> None:
        matching = True
        for line in lines:
            if line.keyword == "host":
                matching = _fits(self._host, line.words or ())
            elif line.keyword == "match":
                matching = self._meets(line.words or ())
            elif not matching:
                continue
            elif line.keyword == "include":
                for below in line.files:
                    self.walk(below)
            else:
                self._take(line.keyword, line.words)

    def _meets(self, words: Sequence[str]) -> bool:
        met = True
        rest = iter(words)
        for word in rest:
            name = word.lower().removeprefix("!")
            one = True
            if name != "all":
                value = {
                    "host": self._name(),
                    "originalhost": self._host,
                    "user": self._found.get("user", (self._me,))[0],
                    "localuser": self._me,
                }[name]
                one = _fits(value, next(rest).split(","))
            met = met and one is not word.startswith("!")
        return met

    def _take(self, keyword: str, words: tuple[str, ...] | None) -> None:
        if keyword in _WITHOUT_EFFECT:
            return
        if keyword == "identityfile" and words and len(words) == 1:
            self._identities = self._identities or []
            if words[0].lower() != "none":
                self._identities.append(words[0])
        elif (keyword in _SINGLE and words and len(words) == 1) or (keyword in _LISTS and words):
            self._found.setdefault(keyword, words)
        elif keyword != "proxycommand" or "proxycommand" not in self._found:
            self._plain = False

    def _name(self) -> str:
        """Return the name that is connected to."""
        named = self._found.get("hostname", ("%h",))[0]
        return _TOKEN.sub(lambda match: {"h": self._host, "%": "%"}.get(match[1], match[0]), named)

    def settings(self) -> Settings:
        found = {name: words[0] for name, words in self._found.items()}
        tokens = self._tokens()
        plain = self._plain and not re.search(r"%[^h%]|%$", found.get("hostname", ""))
        plain = plain and found.get("proxyjump", "none").lower() == found.get("proxycommand", "none").lower() == "none"
        plain = plain and "publickey" in found.get("preferredauthentications", "publickey").lower().split(",")
        plain = plain and _YES.get(found.get("pubkeyauthentication", "yes").lower(), False)
        family = _FAMILIES.get(found.get("addressfamily", "any").lower())
        only = _YES.get(found.get("identitiesonly", "no").lower())
        port = found.get("port", "22")
        plain = plain and family is not None and only is not None and port.isdigit() and 0 < int(port) < 65536
        identities = None
        agent = found.get("identityagent")
        try:
            if self._identities is not None:
                identities = tuple(_filled(one, tokens) for one in self._identities)
            agent = _agent(agent, tokens)
        except NotRead:
            plain = False
        known_hosts = self._known_hosts(tokens)
        return Settings(
            host=tokens["h"],
            port=int(port) if port.isdigit() else 22,
            user=tokens["r"],
            identities=identities,
            identities_only=bool(only),
            agent=agent,
            known_hosts=known_hosts,
            family=family or socket.AF_UNSPEC,
            plain=plain and known_hosts != (),
        )

    def _tokens(self) -> dict[str, str]:
        here = socket.gethostname()
        return {
            "%": "%",
            "d": str(Path("~").expanduser()),
            "h": self._name(),
            "i": str(os.getuid()),
            "L": here.split(".")[0],
            "l": here,
            "n": self._host,
            "p": self._found.get("port", ("22",))[0],
            "r": self._found.get("user", (self._me,))[0],
            "u": self._me,
        }

    def _known_hosts(self, tokens: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the files; None for those that OpenSSH reads by itself, empty where they are not understood."""
        if not _LISTS & self._found.keys():
            return None
        files = (
            *self._found.get("userknownhostsfile", _USER_FILES),
            *self._found.get("globalknownhostsfile", _GLOBAL_FILES),
        )
        try:
            return () if "none" in files else tuple(_filled(one, tokens) for one in files)
        except NotRead:
            return ()


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns fits, and none of those with `!` does."""
    found = False
    for listed in patterns:
        for pattern in listed.split(","):
            # A bracket is itself there, and begins a set here.
            plain = pattern.removeprefix("!").replace("[", "\0").replace("]", "[]]").replace("\0", "[[]")
            if fnmatch.fnmatchcase(name, plain):
                if pattern.startswith("!"):
                    return False
                found = True
    return found


def _filled(text: str, tokens: Mapping[str, str]) -> str:
    """Return a file's name with `%d`, `${HOME}` and so on filled in. Raises: NotRead."""
    if any(match[1] not in tokens for match in _TOKEN.finditer(text)):
        raise NotRead(text)
    filled = _TOKEN.sub(lambda match: tokens[match[1]], text)
    for name in re.findall(r"\$\{(.*?)\}", filled):
        if name not in os.environ:
            raise NotRead(text)
        filled = filled.replace(f"${{{name}}}", os.environ[name])
    return str(Path(filled).expanduser())


def _agent(named: str | None, tokens: Mapping[str, str]) -> str | None:
    if named is None or named == "SSH_AUTH_SOCK":
        return None
    if named.lower() == "none":
        return ""
    if named.startswith("$") and not named.startswith("${"):
        named = f"${{{named[1:]}}}"
    return _filled(named, tokens)
