"""One round trip for everything that must be known of a host: the sh script of all needs, and what it said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dogwatch.errors import DogwatchError
from dogwatch.fleet.operations.state import CannotRead, Need

# Words of programs are English, system programs are found, and nothing is asked.
START = (
    "LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH\n"
    "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND\n"
)


def joined(needs: Iterable[Need[Any]]) -> list[Need[Any]]:
    """Return the needs without doubles, in order."""
    found: dict[str, Need[Any]] = {}
    for need in needs:
        before = found.get(need.key)
        found[need.key] = need if before is None else before.joined(need)
    return list(found.values())


def read_function(needs: Iterable[Need[Any]], mark: str) -> str:
    """Return sh that defines `reads`, which prints every fact between marks. mark: random, so that no fact has it."""
    given = list(needs)
    lines = [START, *dict.fromkeys(need.prelude for need in given if need.prelude), "reads() {"]
    for at, need in enumerate(given):
        # In a shell of its own: a variable or folder that one changes is no other's.
        script = need.script() if need.tidy else f"({need.script()})"
        lines.append(f"printf '\\n{mark} {at}\\n'; {script}")
    lines.append(f"printf '\\n{mark} end\\n'\n}}")
    return "\n".join(lines) + "\n"


def read_script(needs: Iterable[Need[Any]], mark: str) -> str:
    """Return the whole script, for the stdin of a shell; cut short on its way it does nothing."""
    return f"{{\n{read_function(needs, mark)}reads </dev/null\n}}\n"


def facts_of(needs: Iterable[Need[Any]], raw: bytes, mark: str) -> dict[str, Any]:
    """Return the facts by key; what could not be read is there as the error.

    Raises: CannotRead where the script did not come to its end.
    """
    pieces = raw.split(f"\n{mark} ".encode())
    if not pieces[-1].startswith(b"end\n"):
        raise CannotRead("the host's answer is cut short", hint="its shell must be POSIX, with stat and sha256sum")
    found: dict[str, Any] = {}
    for at, (need, piece) in enumerate(zip(needs, pieces[1:-1], strict=True)):
        number, _, content = piece.partition(b"\n")
        if number != str(at).encode():
            raise CannotRead("the host's answer is out of order")
        try:
            found[need.key] = need.parse(content)
        except DogwatchError as error:
            found[need.key] = error
    return found


def seals_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each fact; of one that could not be read, the word for it."""
    return {key: "unreadable" if isinstance(fact, DogwatchError) else fact.seal() for key, fact in facts.items()}
