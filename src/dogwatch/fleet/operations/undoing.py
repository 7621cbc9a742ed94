"""The way back of each kind of step, in sh: from what was kept, and only where nobody changed it since."""

from __future__ import annotations

import hashlib
import shlex

from dogwatch.fleet.operations.steps import AnyStep, Attributes, Link, MakeDirectory, Remove, Run, Unpack, Write

# What the functions return: 0 taken back, 3 nothing can be taken back here (told), else it failed.
_RESTORE = (
    'if [ -e "$b.none" ]; then rm -f "$p"; '
    'elif [ -e "$b" ] || [ -L "$b" ]; then t=${p%/*}/.dogwatch-$A-$n; rm -rf "$t"; cp -pPR "$b" "$t" && '
    'moved "$t" "$p"; '
    'else echo "nothing was kept of $p"; return 3; fi'
)


def undo_of(step: AnyStep, number: int) -> str:
    """Return the body of the sh function that takes a step back."""
    if isinstance(step, Run):
        if not step.undo:
            return f"echo {shlex.quote(f'there is no way back of: {step.title}')}; return 3"
        return f'umask "$U"; /bin/sh -c {shlex.quote(step.undo)}'
    path = shlex.quote(step.path)
    start = f"n={number}; b=$B/{number}; p={path}\n"
    if isinstance(step, Write):
        after = hashlib.sha256(step.content).hexdigest()
        return (
            f'{start}x=; [ ! -f "$p" ] || x=$(sum "$p"); if [ "$x" != {after} ]; then '
            f'{_same_as_kept()} echo "$p was changed since"; return 1; fi\n{_RESTORE}'
        )
    if isinstance(step, Link):
        if step.hard:
            return (
                f'{start}if [ ! "$p" -ef {shlex.quote(step.target)} ]; then {_same_as_kept()} return 1; fi\n{_RESTORE}'
            )
        target = shlex.quote(step.target)
        return (
            f'{start}if [ "$(readlink "$p")" != {target} ]; then {_same_as_kept()} '
            f'echo "$p was changed since"; return 1; fi\n{_RESTORE}'
        )
    if isinstance(step, Remove):
        return f'{start}if [ -e "$p" ] || [ -L "$p" ]; then echo "$p is there again"; return 1; fi\n{_RESTORE}'
    if isinstance(step, MakeDirectory):
        return f'{start}[ -d "$p" ] || return 0; rmdir "$p" 2>/dev/null || {{ echo "$p is not empty"; return 3; }}'
    if isinstance(step, Attributes):
        return f'{start}read -r m o < "$b.attr" && chown -- "$o" "$p" && chmod "$(printf %05d "$m")" "$p"'
    return _unpacked(step, number)


def _same_as_kept() -> str:
    """Return sh that ends well where what was kept is there again: a way back that was cut short is gone again."""
    return (
        'if [ -e "$b.none" ] && [ ! -e "$p" ] && [ ! -L "$p" ]; then return 0; fi; '
        'if [ -f "$b" ] && [ -f "$p" ] && [ "$(sum "$b")" = "$(sum "$p")" ]; then return 0; fi; '
        'if [ -L "$b" ] && [ "$(readlink "$b")" = "$(readlink "$p")" ]; then return 0; fi;'
    )


def _unpacked(step: Unpack, number: int) -> str:
    path = shlex.quote(step.path)
    return (
        f'[ -e "$B/{number}.list" ] || return 0\nwhile IFS= read -r n; do\n'
        f'if [ -e "$B/{number}/$n" ] || [ -L "$B/{number}/$n" ]; then t={path}/.dogwatch-$A-{number}; rm -rf "$t"; '
        f'cp -pPR "$B/{number}/$n" "$t" && moved "$t" {path}/"$n" || return 1; else rm -f {path}/"$n"; fi\n'
        f'done < "$B/{number}.list"'
    )
