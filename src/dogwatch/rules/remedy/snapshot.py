"""The script that looks at a machine. It is for any /bin/sh with what is there: what is missing is said, not an error.

Pure: it is run here, over SSH, or wherever there is a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

# Each look on its own, so that one that hangs (a dead mount, a stuck Docker) leaves time for the others.
_BEGIN = """\
LC_ALL=C; export LC_ALL
if command -v timeout >/dev/null 2>&1; then look() { timeout -k 1 SHARE "$@"; }; else look() { "$@"; }; fi
have() { command -v "$1" >/dev/null 2>&1; }
title() { printf '\\n== %s\\n' "$1"; }
"""
_PROCESSES = """\
title 'load and memory'
cat /proc/loadavg 2>/dev/null
head -n 5 /proc/meminfo 2>/dev/null
title 'top processes by CPU'
if have ps; then
  look ps -eo pid,ppid,user,pcpu,pmem,rss,nlwp,etime,args --sort=-pcpu 2>/dev/null | cut -c 1-300 | head -n 16 \
    || look ps 2>/dev/null | head -n 16
  title 'top processes by memory'
  look ps -eo pid,pcpu,pmem,rss,etime,args --sort=-rss 2>/dev/null | cut -c 1-200 | head -n 11
else
  for p in /proc/[0-9]*; do
    [ -r "$p/statm" ] && read -r _ rss _ < "$p/statm" && printf '%s %s %s\\n' "$rss" "${p#/proc/}" \
      "$(tr '\\0' ' ' < "$p/cmdline" 2>/dev/null | cut -c 1-200)"
  done 2>/dev/null | sort -rn | head -n 15
fi
title 'descriptors'
printf 'in use, free, most: '; cat /proc/sys/fs/file-nr 2>/dev/null
look sh -c 'for p in /proc/[0-9]*; do
  set -- "$p"/fd/*; [ -e "$1" ] || [ -L "$1" ] || continue
  name=; read -r name < "$p/comm"; printf "%s %s %s\\n" "$#" "${p#/proc/}" "$name"
done 2>/dev/null | sort -rn | head -n 10'
"""
_REST = """\
title 'disks'
look df -hP 2>/dev/null | head -n 20
title 'sockets'
if have ss; then look ss -s 2>/dev/null; else head -n 5 /proc/net/sockstat 2>/dev/null; fi
"""
_CONTAINER = """\
title 'container NAME'
engine=
for one in docker podman; do have $one && engine=$one && break; done
if [ -n "$engine" ]; then
  look $engine inspect --format '\
state={{.State.Status}} exit={{.State.ExitCode}} oom={{.State.OOMKilled}} restarts={{.RestartCount}} \
started={{.State.StartedAt}} finished={{.State.FinishedAt}} error={{.State.Error}} image={{.Config.Image}}' \
    -- QUOTED 2>&1
  look $engine top QUOTED 2>&1 | head -n 15
  title 'last lines of container NAME'
  look $engine logs --tail LINES QUOTED 2>&1 | cut -c 1-500
else
  echo 'there is neither docker nor podman here'
fi
"""
_UNIT = """\
title 'unit NAME'
if have systemctl; then
  look systemctl status --no-pager --full --lines 0 -- QUOTED 2>&1 | head -n 40
  look systemctl show --property ActiveState,SubState,Result,ExecMainStatus,NRestarts -- QUOTED 2>&1
else
  echo 'there is no systemd here'
fi
title 'last lines of unit NAME'
if have journalctl; then look journalctl --no-pager --quiet -n LINES -u QUOTED 2>&1 | cut -c 1-500; fi
"""
_LOG = """\
title 'last lines of NAME'
if [ -r QUOTED ]; then look tail -n LINES -- QUOTED 2>&1 | cut -c 1-1000; else echo 'cannot be read'; fi
"""
_NAMED = """\
title 'processes called NAME'
if have pgrep; then
  for pid in $(pgrep -x -- QUOTED | head -n 20); do
    printf 'pid %s, descriptors %s: ' "$pid" "$(ls /proc/$pid/fd 2>/dev/null | wc -l)"
    tr '\\0' ' ' < /proc/$pid/cmdline 2>/dev/null | cut -c 1-300; echo
    grep -E '^(State|Threads|VmRSS)' /proc/$pid/status 2>/dev/null
  done
fi
"""


def snapshot_script(
    *,
    unit: str = "",
    container: str = "",
    socket: str = "",
    logs: Sequence[str] = (),
    process: str = "",
    lines: int = 50,
    limit_s: float = 10.0,
) -> str:
    """Return the script; what somebody asked for by name comes first, as what is too long is cut at its end."""
    # One look may take a part of the time only.
    share_s = max(0.5, limit_s / 4)
    parts = [_BEGIN.replace("SHARE", f"{share_s:g}")]
    parts += [_part(_UNIT, unit, lines)] if unit else []
    parts += [engine_at(socket), _part(_CONTAINER, container, lines)] if container else []
    parts += [_part(_NAMED, process, lines)] if process else []
    parts += [_part(_LOG, path, lines) for path in logs]
    parts += [_PROCESSES, _REST]
    return "".join(parts) + "exit 0\n"


def engine_at(socket: str) -> str:
    """Return what lets the commands of Docker and Podman ask the engine at a socket; "" for the usual one."""
    if not socket:
        return ""
    url = shlex.quote(f"unix://{socket.removeprefix('unix://')}")
    return f"export DOCKER_HOST={url} CONTAINER_HOST={url}\n"


def _part(text: str, name: str, lines: int) -> str:
    # In a title it stands between single quotes already.
    title = "".join(char if char.isprintable() and char != "'" else "?" for char in name)
    words = {"QUOTED": shlex.quote(name), "NAME": title, "LINES": str(lines)}
    # In one pass: a name may hold these words itself.
    return re.sub("|".join(words), lambda match: words[match[0]], text)
