"""The operation `cron`: entries of users' crontabs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from dogwatch.fleet.operations.accounts import name_faults
from dogwatch.fleet.operations.files import Wanted, difference, path_needs
from dogwatch.fleet.operations.operation import Context, Operation
from dogwatch.fleet.operations.paths import path_fault
from dogwatch.fleet.operations.state import CannotRead, Fact, Need, State
from dogwatch.fleet.operations.steps import AnyStep, Run
from dogwatch.fleet.operations.text import bare, current, edited, insert, split

_WORDS = ("@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_FIELD = re.compile(r"[0-9A-Za-z*/,~-]+")


class CrontabFact(Fact, frozen=True, kw_only=True):
    """A user's crontab; None where there is none."""

    text: str | None


class CrontabNeed(Need[CrontabFact], frozen=True, kw_only=True, tag="crontab"):
    """A user's crontab, "" for one's own."""

    user: str = ""

    @property
    def key(self) -> str:
        return f"crontab {self.user}".rstrip()

    def script(self) -> str:
        user = f"-u {shlex.quote(self.user)} " if self.user else ""
        return (
            "if ! command -v crontab >/dev/null; then echo missing; "
            f'elif x=$(crontab {user}-l 2>/dev/null; echo "r$?"); then printf \'said\\n%s\' "$x"; fi'
        )

    def parse(self, raw: bytes) -> CrontabFact:
        head, _, text = raw.decode(errors="surrogateescape").partition("\n")
        if head != "said":
            raise CannotRead("there is no crontab on the host", hint="an operation `package` may bring cron")
        content, _, code = text.rpartition("r")
        if code.strip() != "0":
            return CrontabFact(text=None)
        return CrontabFact(text=content)


class CronOperation(Operation, frozen=True, kw_only=True):
    """A user's crontab, or a file of /etc/cron.d, has this entry. It is found again by its name.

    name: told in a comment above it. run: the command. schedule: five fields, or `@daily`. user: whose, "" for one's
    own. path: a file of /etc/cron.d in the place of a crontab; then user is as whom. disabled: it is kept as a
    comment. state: present or absent.
    """

    kind: ClassVar[str] = "cron"

    name: str
    run: str = ""
    schedule: str = ""
    user: str = ""
    path: str | None = None
    disabled: bool = False
    state: Literal["present", "absent"] = "present"

    def faults(self) -> Iterable[tuple[str, str, str]]:
        if not self.name.strip() or "\n" in self.name:
            yield "name", "must be one line", ""
        if self.user:
            yield from name_faults("user", self.user)
        if self.path is not None and (fault := path_fault(self.path)):
            yield "path", fault, ""
        if self.path is not None and not self.user:
            yield "user", "is missing: files of /etc/cron.d say as whom", ""
        if self.state == "absent":
            return
        if not self.run.strip() or "\n" in self.run:
            yield "run", "must be one line", ""
        fields = self.schedule.split()
        if self.schedule not in _WORDS and (len(fields) != 5 or not all(map(_FIELD.fullmatch, fields))):
            yield "schedule", f"'{self.schedule}' is neither five fields nor a word such as @daily", "'0 4 * * *'"

    def needs(self, context: Context) -> Sequence[Need[Any]]:  # noqa: ARG002
        return [CrontabNeed(user=self.user)] if self.path is None else path_needs(self.path)

    def decide(self, context: Context, state: State) -> Iterator[AnyStep]:  # noqa: ARG002
        if self.path is not None:
            yield from edited(state, self.path, self._changed(current(state, self.path, create=True)), Wanted())
            return
        need = CrontabNeed(user=self.user)
        before = state.get(need).text
        after = self._changed(before or "")
        if after == (before or ""):
            return
        state.put(need, CrontabFact(text=after))
        user = f"-u {shlex.quote(self.user)} " if self.user else ""
        undo = f"crontab {user}-r" if before is None else f"printf %s {shlex.quote(before)} | crontab {user}-"
        old, new = ((text or "").encode(errors="surrogateescape") for text in (before, after))
        yield Run(
            title=f"change the crontab of {self.user or 'oneself'}",
            diff=difference(old, new),
            script=f"crontab {user}-",
            stdin=new,
            undo=undo,
        )

    def _changed(self, text: str) -> str:
        lines, end = split(text)
        mark = f"# dogwatch: {self.name}"
        at = next((number for number, line in enumerate(lines) if bare(line) == mark), None)
        new = [] if self.state == "absent" else [f"{mark}{end}", f"{self._entry()}{end}"]
        if at is not None:
            lines[at : at + 2] = new
        elif new:
            insert(lines, len(lines), new, end)
        return "".join(lines)

    def _entry(self) -> str:
        user = f" {self.user}" if self.path is not None else ""
        return f"{'# ' if self.disabled else ''}{self.schedule}{user} {self.run}"
