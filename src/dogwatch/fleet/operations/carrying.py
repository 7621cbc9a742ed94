"""Carries steps out on a host: one sh script with a payload, under a lock, that stops at the first failure.

A script and the bytes that it writes travel by stdin into a folder of their own first; what did not arrive whole does
nothing. Before a step something of the way back is kept, and the journal says which steps were begun and done.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from dogwatch.fleet.operations.reading import START
from dogwatch.fleet.operations.steps import (
    AnyStep,
    Attributes,
    Link,
    MakeDirectory,
    Remove,
    Run,
    Unpack,
    Write,
)
from dogwatch.fleet.operations.undoing import undo_of

_KEEP_APPLIES = 10
# What of a failing step's words is told.
_TOLD_BYTES = 4096

_FUNCTIONS = r"""umask 077
nl='
'
trap '' PIPE
stop= held=
trap 'stop=1' TERM INT HUP
say() { printf '%s\n' "$*" 2>/dev/null || :; }
note() { printf '%s\n' "$*" >> "$D/journal" && say "$*"; }
fin() {
  [ -z "$held" ] || rm -f "$D/in" "$D/run" "$D/out"
  [ -e "$D/journal" ] || rm -rf "$D"
  exec 9>&-; say "end $*"; exit 0
}
lock() {
  exec 9>>"$s/lock" || fin broken "the lock cannot be opened"
  if command -v flock >/dev/null 2>&1; then
    n=0
    until flock -n 9; do
      [ "$n" -lt "$1" ] || fin locked "$(cat "$s/holder" 2>/dev/null)"
      n=$((n + 1)); sleep 1
    done
  else
    mkdir "$s/held" 2>/dev/null || {
      h=$(cat "$s/held/pid" 2>/dev/null)
      [ -n "$h" ] && [ ! -d "/proc/$h" ] || fin locked "$(cat "$s/holder" 2>/dev/null)"
    }
    echo $$ > "$s/held/pid"; trap 'rm -rf "$I" "$I.run" "$s/held"' EXIT
  fi
  held=1
  o=$(cat "$s/open" 2>/dev/null)
  [ -z "$o" ] || [ "$o" = "$A" ] || fin open "$o"
}
go() {
  [ -z "$stop" ] || { rm -f "$s/open"; fin stopped "$1"; }
  note "begun $1"
  if "$2" 9>&- >"$D/out" 2>&1 </dev/null; then note "done $1"; return; fi
  say "failed $1"; tail -c TOLD "$D/out" 2>/dev/null; say ''; rm -f "$s/open"; fin failed "$1"
}
keep() {
  b=$B/$1
  if [ -e "$b" ] || [ -L "$b" ] || [ -e "$b.none" ]; then return 0; fi
  if [ -e "$2" ] || [ -L "$2" ]; then rm -rf "$b.part" && cp -pPR "$2" "$b.part" && mv "$b.part" "$b"
  else : > "$b.none"; fi
}
sum() { x=$(sha256sum < "$1") && printf '%s' "${x%% *}"; }
slice() { tail -c +"$1" "$D/in" | head -c "$2"; }
moved() {
  mv -fT "$1" "$2" 2>/dev/null && return
  if [ -L "$2" ] && [ -d "$2" ]; then rm -f "$2"; fi
  [ ! -d "$2" ] && mv -f "$1" "$2"
}
w() {
  p=$2; t=${p%/*}/.dogwatch-$A-$1
  if [ -d "$p" ] && [ ! -L "$p" ]; then echo "$p is a folder"; return 1; fi
  x=absent
  if [ -L "$p" ]; then x=link; elif [ -f "$p" ]; then x=$(sum "$p") || return 1; fi
  if [ "$x" = "$8" ]; then chown -- "$6" "$p" && chmod "$5" "$p"; return; fi
  if [ "$7" != '*' ] && [ "$x" != "$7" ] && [ "$x" != link ]; then
    echo "$p was changed by a step before this one"; return 1
  fi
  keep "$1" "$p" && rm -f "$t" || return 1
  if [ "$x" != absent ] && [ "$x" != link ]; then
    cp --attributes-only --preserve=all "$p" "$t" 2>/dev/null || { rm -f "$t"; cp -p "$p" "$t"; } || return 1
  fi
  slice "$3" "$4" 2>/dev/null | dd of="$t" bs=65536 conv=fsync 2>"$D/dd"
  if [ "$(wc -c < "$t")" -eq "$4" ] && chown -- "$6" "$t" && chmod "$5" "$t" && moved "$t" "$p"; then
    rm -f "$D/dd"; dirs="$dirs$nl${p%/*}/"; return 0
  fi
  grep -v -e records -e copied "$D/dd"; rm -f "$t"; return 1
}
a() {
  [ -e "$B/$1.attr" ] || stat -c '%a %u:%g' "$2" > "$B/$1.attr" || return 1
  if [ -n "$4" ]; then chown -- "$4" "$2" || return 1; fi
  if [ -n "$3" ]; then chmod "$3" "$2" || return 1; fi
}
d() {
  [ -e "$B/$1.none" ] || : > "$B/$1.none"
  [ -d "$2" ] || mkdir "$2" || return 1
  chown -- "$4" "$2" && chmod "$3" "$2"
}
l() {
  t=${2%/*}/.dogwatch-$A-$1
  keep "$1" "$2" && rm -f "$t" && ln $4 -- "$3" "$t" || return 1
  if [ "$2" -ef "$t" ] && [ ! -L "$t" ]; then rm -f "$t"; return 0; fi
  moved "$t" "$2" || { rm -f "$t"; return 1; }
}
x() {
  q=$2; t=$q/.dogwatch-$A-$1; N=$D/names.$1
  slice "$5" "$6" > "$N" && rm -rf "$t" && mkdir "$t" || return 1
  slice "$3" "$4" | tar -xf - -C "$t" || { rm -rf "$t"; return 1; }
  if [ -n "$7" ]; then chown -R -- "$7" "$t" || return 1; fi
  find "$t" -type f -exec sync {} + 2>/dev/null || sync
  if [ ! -e "$B/$1.list" ]; then
    rm -rf "${B:?}/$1" && mkdir "$B/$1" || return 1
    while IFS= read -r n; do
      [ -e "$q/$n" ] || [ -L "$q/$n" ] || continue
      case $n in */*) mkdir -p "$B/$1/${n%/*}" || return 1;; esac
      cp -pPR "$q/$n" "$B/$1/$n" || return 1
    done < "$N"
    cp "$N" "$B/$1.list" || return 1
  fi
  while IFS= read -r n; do
    case $n in */*) mkdir -p "$q/${n%/*}" || return 1;; esac
    moved "$t/$n" "$q/$n" || return 1
  done < "$N"
  rm -rf "$t" "$N"
}
r() {
  [ -e "$2" ] || [ -L "$2" ] || return 0
  keep "$1" "$2" && rm -rf -- "$2"
}
""".replace("TOLD", str(_TOLD_BYTES))

_FOLDER = (
    'if [ -n "$1" ]; then s=$1; elif [ "$(id -u)" = 0 ]; then s=/var/lib/dogwatch-fleet; '
    "else s=${XDG_STATE_HOME:-$HOME/.local/state}/dogwatch-fleet; fi"
)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """What one script does. apply_id: of the whole apply. steps: with their numbers.

    last: nothing comes after it, so that the host is free again. wait_s: how long a lock that is held is waited for.
    reads: sh that defines `reads`. seal: digest that its output must have, "" for whatever it is.
    """

    apply_id: str
    holder: str
    steps: Sequence[tuple[int, AnyStep]]
    last: bool = True
    wait_s: int = 0
    reads: str = ""
    seal: str = ""


def bootstrap(apply_id: str, size: int, script_size: int, *, folder: str = "") -> str:
    """Return the command that takes in the script and its payload from stdin, and runs it when it is whole."""
    quoted = shlex.quote(folder)
    # A second script of the same apply must not write into the folder of one that still runs: its own file first.
    return (
        f"U=$(umask); umask 077; set -- {quoted}; {_FOLDER}; A={apply_id}; D=$s/applies/$A; "
        'mkdir -p "$D/backup" || { echo "dogwatch-broken the folder $s cannot be made"; exit 0; }; '
        'i=$D/in.$$; cat > "$i"; '
        f'if [ "$(wc -c < "$i")" -ne {size} ]; then rm -f "$i"; '
        'echo "dogwatch-broken the changes did not arrive whole: is the disk full?"; exit 0; fi; '
        f'tail -c +{size - script_size + 1} "$i" > "$i.run" || exit 1; exec /bin/sh "$i.run" "$s" "$i" "$U" </dev/null'
    )


def stage_script(stage: Stage) -> tuple[str, bytes]:
    """Return the script and the bytes that lie before it in the payload."""
    blobs = _Blobs()
    lines = [
        f"s=$1; I=$2; U=$3; A={stage.apply_id}; D=$s/applies/$A; B=$D/backup; dirs=",
        START + _FUNCTIONS,
        stage.reads,
    ]
    for at, step in stage.steps:
        lines.append(f"s{at}() {{\n{_rendered(step, at, blobs)}\n}}")
    lines += [
        # Its own names under the lock only: what arrived beside it belongs to another one.
        f'trap \'rm -f "$I" "$I.run"\' EXIT; lock {stage.wait_s}; mv -f "$I" "$D/in"; mv -f "$I.run" "$D/run"',
        f"printf '%s' {shlex.quote(stage.holder)} > \"$s/holder\"",
    ]
    if stage.seal:
        lines.append(
            f'x=$(reads </dev/null 2>/dev/null | sha256sum); if [ "${{x%% *}}" != {stage.seal} ]; then '
            "say moved; (reads </dev/null 2>/dev/null); say ''; fin moved; fi"
        )
    lines.append('printf \'%s\' "$A" > "$s/open"')
    lines += [f"go {at} s{at}" for at, _ in stage.steps]
    lines.append('if [ -n "$dirs" ]; then (IFS=$nl; set -f; sync $dirs 2>/dev/null) || sync; fi')
    if stage.last:
        lines.append('rm -f "$s/open"')
        lines.append(
            f'ls -1t "$s/applies" | tail -n +{_KEEP_APPLIES + 1} | while read -r x; do rm -rf "$s/applies/$x"; done'
        )
    lines.append("fin ok")
    return "\n".join(lines) + "\n", blobs.data()


def payload(script: str, blobs: bytes) -> bytes:
    return blobs + script.encode(errors="surrogateescape")


def journal_script(apply_id: str, folder: str, reads: str) -> str:
    """Return the script that tells what an apply did on the host, and what is so now. It changes nothing."""
    return (
        f'{{\nset -- {shlex.quote(folder)}; {_FOLDER}\nprintf \'open %s\\n\' "$(cat "$s/open" 2>/dev/null)"; '
        f'cat "$s/applies/{apply_id}/journal" 2>/dev/null; echo journal-end\n{reads}reads </dev/null\n}}\n'
    )


def roll_back_script(apply_id: str, holder: str, steps: Sequence[tuple[int, AnyStep]]) -> str:
    """Return the script that takes steps back, the last first. What was changed since is left alone and told."""
    lines = [f"s=$1; I=$2; U=$3; A={apply_id}; D=$s/applies/$A; B=$D/backup; dirs=", START + _FUNCTIONS]
    lines += [f"u{number}() {{\n{undo_of(step, number)}\n}}" for number, step in steps]
    lines += [
        'trap \'rm -f "$I" "$I.run"\' EXIT; lock 30; mv -f "$I" "$D/in"; mv -f "$I.run" "$D/run"; bad=',
        f'printf \'%s\' {shlex.quote(holder)} > "$s/holder"; printf \'%s\' "$A" > "$s/open"',
        r"""back() {
  u=$("$2" 9>&- 2>&1 </dev/null); r=$?; u=$(printf '%s' "$u" | tail -n 1)
  if [ "$r" = 0 ]; then note "undone $1"; elif [ "$r" = 3 ]; then note "left $1 $u"; else note "stuck $1 $u"; bad=1; fi
}""",
    ]
    lines += [f"back {number} u{number}" for number, _ in reversed(steps)]
    lines.append('rm -f "$s/open"; [ -z "$bad" ] || fin stuck; fin ok')
    return "\n".join(lines) + "\n"


class _Blobs:
    """The payload: each content once."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._size = 0

    def add(self, content: bytes) -> str:
        """Return where it lies, `offset length`, as tail and head count."""
        if content not in self._at:
            self._at[content] = self._size
            self._size += len(content)
        return f"{self._at[content] + 1} {len(content)}"

    def data(self) -> bytes:
        return b"".join(self._at)


# Five digits: with fewer, GNU's chmod leaves a folder's set-group-id bit.
def _rendered(step: AnyStep, number: int, blobs: _Blobs) -> str:
    quote = shlex.quote
    if isinstance(step, Write):
        import hashlib

        after = hashlib.sha256(step.content).hexdigest()
        owner = quote(f"{step.owner}:{step.group}")
        where = blobs.add(step.content)
        return f"w {number} {quote(step.path)} {where} {step.mode:05o} {owner} {quote(step.before)} {after}"
    if isinstance(step, Attributes):
        owner = "" if step.owner is None and step.group is None else f"{step.owner or ''}:{step.group or ''}"
        owner = owner.removesuffix(":")
        mode = "" if step.mode is None else f"{step.mode:05o}"
        return f"a {number} {quote(step.path)} {quote(mode)} {quote(owner)}"
    if isinstance(step, MakeDirectory):
        return f"d {number} {quote(step.path)} {step.mode:05o} {quote(f'{step.owner}:{step.group}')}"
    if isinstance(step, Link):
        return f"l {number} {quote(step.path)} {quote(step.target)} {'' if step.hard else '-s'}"
    if isinstance(step, Remove):
        return f"r {number} {quote(step.path)}"
    if isinstance(step, Unpack):
        return _unpacking(step, number, blobs)
    return _running(step, blobs)


def _running(step: Run, blobs: _Blobs) -> str:
    script = f"/bin/sh -c {shlex.quote(step.script)}"
    if step.stdin is not None:
        script = f"slice {blobs.add(step.stdin)} | {script}"
    # With the umask of the login, not with ours.
    script = f'(umask "$U"; {script})'
    return f"if {step.skip}; then return 0; fi\n{script}" if step.skip else script


def _unpacking(step: Unpack, number: int, blobs: _Blobs) -> str:
    names = "\n".join(step.names).encode() + b"\n"
    owner = shlex.quote(f"{step.owner}:{step.group}".removesuffix(":"))
    return f"x {number} {shlex.quote(step.path)} {blobs.add(step.content)} {blobs.add(names)} {owner}"
