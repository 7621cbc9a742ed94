"""A script file as a command: it travels by stdin, lies on the host while it runs, and is taken away after it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dogwatch.errors import UsageError


def script_command(text: bytes, arguments: Sequence[str]) -> str:
    """Return the command that reads the script from stdin and runs it by what its first line names, or /bin/sh.

    Its interpreter is called with the file, so that it runs where temporary files may not be executed.
    Raises: UsageError.
    """
    first, _, _ = text.partition(b"\n")
    interpreter = ["/bin/sh"]
    if first.startswith(b"#!"):
        if first.endswith(b"\r"):
            raise UsageError("the script's lines end with CR LF", hint="no interpreter has a name with a CR in it")
        program, _, argument = first[2:].decode(errors="replace").strip().partition(" ")
        interpreter = [program, *([argument.strip()] if argument.strip() else [])]
        if not program:
            raise UsageError("the script's first line names no interpreter")
    run = " ".join([shlex.join(interpreter), '"$t"', *map(shlex.quote, arguments)])
    return (
        "umask 077; t=$(mktemp) || exit; trap 'rm -f \"$t\"' EXIT; trap 'exit 143' TERM HUP INT; "
        f'cat > "$t" || exit; {run} < /dev/null'
    )
