"""The operation seam: what should be so on a host, decided from facts without touching anything."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from dogwatch.core.component import Component
from dogwatch.fleet.operations.state import Need, State
from dogwatch.fleet.operations.steps import AnyStep


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is given beside facts. render: fills in a text template of the playbook.

    local: returns the content of a file beside the playbook. Raises: Refused where it cannot be read.
    name: of the operation, as the playbook has it.
    """

    name: str
    render: Callable[[str], str]
    local: Callable[[str], bytes]


class Operation(Component, frozen=True, kw_only=True):
    """Says how something on a host should be. `needs` is what must be read for it; `decide` what is to be changed.

    Both are pure: what was read is given, and changes come back. They raise Refused for what cannot be done.
    local_files: fields that name files beside the playbook.
    """

    local_files: ClassVar[tuple[str, ...]] = ()

    def faults(self) -> Iterable[tuple[str, str, str]]:
        """Yield (field, message, hint) for what field types cannot check. Fields are filled in."""
        return ()

    @abc.abstractmethod
    def needs(self, context: Context) -> Sequence[Need[Any]]:
        """Return everything that decide reads."""

    @abc.abstractmethod
    def decide(self, context: Context, state: State) -> Iterable[AnyStep]:
        """Return the changes that are missing, in order, none where it is so already; tell the state of them.

        Raises: Refused, Later.
        """
