"""The script that looks at a host: POSIX sh, nothing installed, nothing written, no root needed for most of it.

Each check is a section that begins with a line of its own; a check that cannot be done says why in its section.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

from dogwatch.errors import UsageError

MARK = "@@dogwatch "
# How the script begins: by this it is known again in a list of commands.
TITLE = "# inspection: "
_PATTERN = re.compile(r"/[A-Za-z0-9_./*?+@=-]*")
CERTIFICATES = (
    "/etc/letsencrypt/live/*/cert.pem",
    "/etc/nginx/ssl/*.crt",
    "/etc/nginx/ssl/*.pem",
    "/etc/ssl/private/*.crt",
)
MOST_CERTIFICATES = 50

_SECTIONS = {
    "time": "date +%s.%N",
    "load": "cat /proc/loadavg; grep -c ^processor /proc/cpuinfo; cat /proc/uptime",
    "memory": "grep -E '^(MemTotal|MemFree|MemAvailable|Buffers|Cached|SwapTotal|SwapFree):' /proc/meminfo",
    "disk": (
        "T='-x tmpfs -x devtmpfs -x squashfs -x efivarfs -x ramfs'; "
        "df -kP $T 2>/dev/null || df -kP; echo inodes; df -iP $T 2>/dev/null || df -iP 2>/dev/null"
    ),
    "services": (
        "if [ -d /run/systemd/system ]; then systemctl list-units --failed --plain --no-legend --no-pager; "
        "else echo 'missing: no systemd here'; fi"
    ),
    "packages": (
        "if command -v apt-get >/dev/null; then echo apt; apt-get -s -o Debug::NoLocking=true upgrade 2>/dev/null | "
        "grep '^Inst '; elif command -v dnf >/dev/null; then echo dnf; dnf -q -C check-update 2>/dev/null; "
        "echo security; dnf -q -C updateinfo list --security 2>/dev/null; elif command -v apk >/dev/null; "
        "then echo apk; apk version -l '<' 2>/dev/null; else echo 'missing: no apt, dnf or apk'; fi"
    ),
    "reboot": (
        "if [ -e /var/run/reboot-required ]; then echo yes; cat /var/run/reboot-required.pkgs 2>/dev/null; "
        "elif command -v needs-restarting >/dev/null; then needs-restarting -r >/dev/null 2>&1 && echo no || echo yes; "
        'elif [ -d /lib/modules ] && [ ! -d "/lib/modules/$(uname -r)" ] && [ -d /var/lib/dpkg ] && '
        "ls /lib/modules | grep -q .; then echo yes; echo 'the running kernel is not installed any more'; "
        "else echo no; fi"
    ),
    "errors": (
        "if command -v journalctl >/dev/null && [ -d /run/systemd/system ]; then "
        "journalctl -q --no-pager -p err -S -1h -o short-iso -n 200 2>&1; "
        "else for f in /var/log/syslog /var/log/messages; do [ -r $f ] && { tail -n 2000 $f | "
        "grep -iE '(error|critical|panic|oom-killer)' | tail -n 200; exit; }; done; "
        "echo 'missing: no log can be read'; fi"
    ),
}
CHECKS = (*_SECTIONS, "certificates")


def inspection_script(checks: Collection[str] = CHECKS, certificates: Sequence[str] = CERTIFICATES) -> str:
    """Return the script of these checks. certificates: patterns of the files that hold any. Raises: UsageError."""
    unknown = sorted(set(checks) - set(CHECKS))
    if unknown:
        raise UsageError(f"there is no check '{unknown[0]}'", hint=f"known: {', '.join(CHECKS)}")
    chosen = [name for name in CHECKS if name in checks]
    parts = [f"{TITLE}{', '.join(chosen)}", 'export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"']
    parts += [
        f"echo {shlex.quote(MARK + name)}; ( {script} ) 2>&1" for name, script in _SECTIONS.items() if name in checks
    ]
    if "certificates" in checks:
        for pattern in certificates:
            if not _PATTERN.fullmatch(pattern) or pattern.startswith("/-"):
                raise UsageError(f"'{pattern}' is not a path", hint="absolute; letters, digits and ._-*?")
        files = " ".join(certificates)
        parts.append(
            f'echo {shlex.quote(MARK + "certificates")}; n=0; for f in {files}; do [ -f "$f" ] || continue; '
            f'n=$((n+1)); [ $n -le {MOST_CERTIFICATES} ] || break; echo "file $f"; '
            "sed -n '1,/END CERTIFICATE/p' \"$f\" 2>/dev/null || echo 'missing: it cannot be read'; done"
        )
    parts.append(f"echo {shlex.quote(MARK + 'end')}")
    return "\n".join(parts)
