"""Target expressions: which hosts a command is for.

    expression := item {',' item}          the union of the items, minus those that begin with '!'
    item       := factor {'&' factor}      hosts that all factors choose
    factor     := ['!'] atom               '!' beside '&': all hosts but these
    atom       := '(' expression ')' | '@' group | label '=' value | label '!=' value | name

Tightest first: `!`, `&`, `,`. An item that is `!atom` alone takes hosts away from the whole expression, wherever it
stands; an expression of such items only takes them away from all hosts. A name may hold ranges (`web[01-20,25]`,
`[a:c]`) and globs (`web*`, `?`); a bare name is a host, or else the group of that name. A value may hold globs.
Every name that is written out must be there: a typo in `!web07` must not run a command on web07.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from dogwatch.core.component import nearest
from dogwatch.errors import UsageError
from dogwatch.fleet.inventory.draft import ALL
from dogwatch.fleet.inventory.inventory import Inventory
from dogwatch.fleet.inventory.ranges import expand, fold

_SIGNS = "(),&!"
_LABEL = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_./-]*)(?P<sign>!?=)(?P<value>.*)", re.DOTALL)
MAX_CHARS = 100_000
_DEPTH = 50


def choose(expression: str, inventory: Inventory) -> list[str]:
    """Return the hosts of an expression, in the inventory's order; none is an empty list.

    Raises: UsageError that shows where the expression is wrong, or which name is not there.
    """
    if len(expression) > MAX_CHARS:
        raise UsageError(f"the target expression is longer than {MAX_CHARS} characters")
    chosen = _Parser(expression, inventory).run()
    return [name for name in inventory.hosts if name in chosen]


class _Parser:
    def __init__(self, text: str, inventory: Inventory) -> None:
        self._text = text
        self._inventory = inventory
        self._all = frozenset(inventory.hosts)
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def run(self) -> frozenset[str]:
        if not self._tokens:
            raise UsageError("the target expression is empty", hint="write 'all' for every host")
        chosen = self._union()
        if self._at < len(self._tokens):
            raise self._fault(f"unexpected '{self._peek()}'")
        return chosen

    def _union(self) -> frozenset[str]:
        self._depth += 1
        if self._depth > _DEPTH:
            raise self._fault(f"more than {_DEPTH} levels of parentheses")
        taken: set[str] = set()
        away: set[str] = set()
        positive = False
        while True:
            hosts, negative = self._item()
            if negative:
                away |= hosts
            else:
                positive = True
                taken |= hosts
            if self._peek() != ",":
                break
            self._at += 1
            if self._peek() in ("", ")"):  # a comma at the end, as people leave it
                break
        self._depth -= 1
        return frozenset((taken if positive else self._all) - away)

    def _item(self) -> tuple[frozenset[str], bool]:
        """Return the hosts of an item, and whether it is `!atom` alone: then they are those to take away."""
        hosts, negative = self._factor()
        if self._peek() != "&":
            return hosts, negative
        chosen = self._all - hosts if negative else hosts
        while self._peek() == "&":
            self._at += 1
            hosts, negative = self._factor()
            chosen = chosen - hosts if negative else chosen & hosts
        return chosen, False

    def _factor(self) -> tuple[frozenset[str], bool]:
        negative = False
        while self._peek() == "!":
            self._at += 1
            negative = not negative
        return self._atom(), negative

    def _atom(self) -> frozenset[str]:
        word = self._peek()
        if word == "(":
            self._at += 1
            chosen = self._union()
            if self._peek() != ")":
                raise self._fault("a parenthesis is not closed")
            self._at += 1
            return chosen
        if word == "" or word in _SIGNS:
            raise self._fault(
                f"expected a host, @group or label=value before '{word}'" if word else "something is missing"
            )
        self._at += 1
        if word.startswith("@"):
            return self._group(word[1:])
        label = _LABEL.fullmatch(word)
        if label is not None:
            return self._label(label["name"], label["sign"], label["value"])
        return self._named(word)

    def _group(self, name: str) -> frozenset[str]:
        groups = self._inventory.groups
        if any(char in name for char in "*?"):
            found = fnmatch.filter(groups, name)
            return frozenset().union(*(groups[one].members for one in found), frozenset())
        if name not in groups:
            hint = "ClusterShell's 'a^b' is '(a,b)&!(a&b)' here" if "^" in name else nearest(name, list(groups))
            raise UsageError(f"there is no group '{name}'", hint=hint)
        return groups[name].members

    def _label(self, name: str, sign: str, value: str) -> frozenset[str]:
        inventory = self._inventory
        has = {host: inventory.label(host, name) for host in inventory.hosts}
        if all(found is None for found in has.values()) and name not in (names := inventory.label_names()):
            raise UsageError(f"no host has a label '{name}'", hint=nearest(name, sorted(names)[:2000]))
        same = frozenset(host for host, found in has.items() if found is not None and fnmatch.fnmatchcase(found, value))
        return same if sign == "=" else self._all - same

    def _named(self, word: str) -> frozenset[str]:
        inventory = self._inventory
        if word.startswith("~"):
            raise UsageError(f"'{word}': regular expressions choose nothing here", hint="globs do: web*, db?")
        if word in inventory.hosts:
            return frozenset((word,))
        if word in (ALL, "*"):
            return self._all
        if word in inventory.groups:
            return inventory.groups[word].members
        try:
            names = expand(word) if "[" in word or "]" in word else [word]
        except ValueError as error:
            raise UsageError(f"target '{word}': {error}") from None
        chosen: set[str] = set()
        missing: list[str] = []
        for name in names:
            if any(char in name for char in "*?"):
                chosen.update(inventory.matching(name))
            elif name in inventory.hosts:
                chosen.add(name)
            else:
                missing.append(name)
        if missing:
            raise UsageError(f"there is no host {_some(missing)}", hint=self._hint(word, missing))
        return frozenset(chosen)

    def _hint(self, word: str, missing: list[str]) -> str:
        if ":" in word and "[" not in word:
            return "Ansible's ':' is ',' here, ':!' is ',!' and ':&' is '&'"
        if "^" in word:
            return "ClusterShell's 'a^b' is '(a,b)&!(a&b)' here"
        known = [*self._inventory.hosts, *self._inventory.groups]
        return nearest(missing[0], known) if len(missing) == 1 else ""

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _fault(self, message: str) -> UsageError:
        at = self._tokens[self._at][0] if self._at < len(self._tokens) else len(self._text)
        before = self._tokens[self._at - 1][1] if self._at else ""
        hint = "such as web[01-20],!web07 or @shop&@eu"
        if self._peek() == "!":
            hint = "ClusterShell's 'a!b' is 'a,!b' here"
        elif self._peek() == "&" and before == ",":
            hint = "Ansible's ',&' is '&' here"
        elif self._peek() and before and before not in _SIGNS:
            hint = "names are parted by commas"
        return UsageError(f"target expression, character {at + 1}: {message}", hint=hint)


def _some(names: list[str]) -> str:
    folded = fold(names)
    return f"'{folded if len(folded) <= 200 else folded[:200] + '…'}'"


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """Yield signs and words with their places. Commas in brackets belong to the word; so does the '!' of '!='."""
    word, start, bracket = "", 0, 0
    for at, char in enumerate(text):
        if char == "[":
            bracket += 1
        elif char == "]":
            bracket = max(0, bracket - 1)
        sign = not bracket and char in _SIGNS and not (char == "!" and word and text[at + 1 : at + 2] == "=")
        if sign or (char.isspace() and not bracket):
            if word:
                yield start, word
            word = ""
            if sign:
                yield at, char
            continue
        if not word:
            start = at
        word += char
    if word:
        yield start, word
