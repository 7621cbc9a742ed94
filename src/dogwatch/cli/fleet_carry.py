"""Carrying an order out from the command line: recorded as it goes, ended by signals, taken up again after a crash."""

from __future__ import annotations

import asyncio
import gc
import getpass
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dogwatch.cli.heeding import heeding
from dogwatch.cli.output import one_line, print_json
from dogwatch.errors import Conflict, NotFound, UsageError

if TYPE_CHECKING:
    from dogwatch.access.actor import Actor
    from dogwatch.fleet.book.own import OwnBook
    from dogwatch.fleet.book.values import FleetRunRow, Kept, Key
    from dogwatch.fleet.inventory.inventory import Inventory
    from dogwatch.fleet.results import HostResult
    from dogwatch.fleet.run import FleetRun, Order, Work

# What of the command line is kept to go on later; the rest says which hosts, or how to print.
_KEPT = (
    "forks", "timeout", "connect_timeout", "deadline", "batch", "max_fail", "user", "key", "sudo", "sudo_user",
    "sudo_password_file", "accept_new_host_keys", "ssh_config", "known_hosts", "paths", "sources",
)  # fmt: skip
_PATHS = ("key", "sudo_password_file", "ssh_config", "known_hosts")


_GARBAGE = 100_000


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What is done on each host, as plain data, so that it can be taken up again.

    kind: run, copy, fetch or inspect. what: for people. arguments: of copy and fetch. env, input: kept sealed.
    """

    kind: str = "run"
    what: str
    script: str = ""
    arguments: dict[str, Any] = {}
    limit_bytes: int = 256 * 1024
    env: dict[str, str] = {}
    input: bytes | None = None


class _Secret(msgspec.Struct):
    env: dict[str, str] = {}
    input: bytes | None = None


class Carried(msgspec.Struct, frozen=True):
    """What came of it. ended_by: the number of a signal, or 0."""

    results: list[HostResult]
    reason: str
    ended_by: int
    key: Key


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of. hosts: to their labels, in order. done: those that have their end. row: taken up."""

    deed: Deed
    options: dict[str, Any]
    targets: str
    inventory: Inventory
    hosts: dict[str, Mapping[str, str]]
    done: dict[str, HostResult] = {}
    retry_of: str = ""
    row: FleetRunRow | None = None


def data_folder() -> Path:
    from dogwatch.daemon.paths import default_data_dir

    return default_data_dir(os.environ)


def this_actor() -> Actor:
    from dogwatch.access.actor import Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return Actor(kind="local", name=name)


def order_of(deed: Deed, options: Mapping[str, Any]) -> Order:
    """Return the order that the options describe. Raises: UsageError."""
    from dogwatch.fleet.rollout import Rollout, parse_amount, parse_batches
    from dogwatch.fleet.run import Order

    return Order(
        script=deed.script,
        input=deed.input,
        env=deed.env,
        forks=options["forks"],
        timeout_s=options["timeout"],
        deadline_s=options["deadline"],
        rollout=Rollout(
            batches=parse_batches(options["batch"]),
            max_fail=None if options["max_fail"] is None else parse_amount(options["max_fail"]),
        ),
        limit_bytes=deed.limit_bytes,
    )


def carry_out(make: Callable[[OwnBook], Awaitable[Setup]], resumed: str = "") -> Carried:
    """Carry out what `make` sets up, resumed: of this run, which nobody else may carry out. Raises: DogwatchError."""
    import uvloop

    from dogwatch.fleet.book.own import Hold, own_book

    async def everything() -> Carried:
        async with own_book(data_folder(), make=not resumed) as book:
            if not resumed:
                return await _begun(book, await make(book))
            # Held before it is looked at: whoever carries it out now would change it meanwhile.
            with Hold(book.folder, await book.resolve(resumed)):
                return await _resumed(book, await make(book))

    # Thousands of connections are thousands of objects that live for a while: looking through them costs a twentieth.
    gc.set_threshold(_GARBAGE, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(everything())


async def _begun(book: OwnBook, setup: Setup) -> Carried:
    """Write a new run down and carry it out."""
    from dogwatch.fleet.book.own import Hold
    from dogwatch.fleet.book.values import Opening

    order = order_of(setup.deed, setup.options)
    opening = Opening(
        what=setup.deed.what,
        targets=setup.targets,
        orders=_orders(setup),
        sealed=_sealed(book, setup.deed),
        actor=this_actor(),
        hosts=setup.hosts,
        retry_of=setup.retry_of,
    )
    key = await book.open(opening)
    with Hold(book.folder, key):
        return await _carried(book, key, setup, order, 1)


async def _resumed(book: OwnBook, setup: Setup) -> Carried:
    """Go on with a run, which this process holds."""
    assert setup.row is not None
    order = order_of(setup.deed, setup.options)
    row = await book.reopen(setup.row.key, this_actor())
    return await _carried(book, row.key, setup, order, row.attempt)


async def _carried(book: OwnBook, key: Key, setup: Setup, order: Order, attempt: int) -> Carried:
    from dogwatch.cli.fleet_logins import logins_of, ssh_options
    from dogwatch.cli.fleet_progress import progress
    from dogwatch.fleet.run import FleetRun

    try:
        from dogwatch.fleet.connections.ssh import SshDialer
    except ImportError:
        raise UsageError("SSH is not installed here", hint="pip install 'dogwatch[fleet]'") from None

    logins = logins_of(setup.inventory, list(setup.hosts), setup.options)
    recorder = book.recorder(key, await book.hosts(key), attempt=attempt)
    dialer = SshDialer(ssh_options(setup.options))
    with progress(len(setup.hosts), done=len(setup.done)) as watcher:
        running = FleetRun(
            order,
            logins,
            dialer,
            work=work_of(setup.deed, order),
            watcher=watcher,
            ledger=recorder,
            done=setup.done,
            # Who goes on by hand has seen what failed; the rule is about what comes.
            forgiven=sum(not one.ok for one in setup.done.values()),
        )
        with _heeding(running) as signals:
            try:
                results = await running.run()
            finally:
                await dialer.close()
    await book.close(key, results, running.reason, this_actor())
    return Carried(results, running.reason, signals[0] if signals else 0, key)


@contextmanager
def _heeding(running: FleetRun) -> Iterator[list[int]]:
    """End the run on Ctrl-C and SIGTERM; yield the list that their numbers are put in."""
    seen: list[int] = []

    def stop(number: int) -> None:
        seen.append(number)
        running.cancel("interrupted")

    with heeding(stop):
        yield seen


def work_of(deed: Deed, order: Order) -> Work | None:
    """Return what is done on each host in place of a command."""
    if deed.kind == "run":
        return None
    from dogwatch.fleet.files import copying, fetching

    given = deed.arguments
    if deed.kind == "inspect":
        from dogwatch.fleet.inspecting import inspecting

        return inspecting(deed.script, timeout_s=order.timeout_s)
    if deed.kind == "copy":
        return copying(Path(given["source"]), given["target"], mode=given["mode"], timeout_s=order.timeout_s)
    return fetching(given["path"], Path(given["folder"]), timeout_s=order.timeout_s)


def _orders(setup: Setup) -> dict[str, Any]:
    """Return what is kept to go on, without secrets; relative paths would mean something else tomorrow."""
    kept = {name: setup.options[name] for name in _KEPT}
    for name in _PATHS:
        if kept[name] is not None:
            kept[name] = str(Path(kept[name]).expanduser().absolute())
    for name in ("paths", "sources"):
        kept[name] = [str(Path(one).absolute()) if Path(one).exists() else one for one in kept[name]]
    deed = setup.deed
    return {
        "kind": deed.kind,
        "script": deed.script,
        "arguments": deed.arguments,
        "limit_bytes": deed.limit_bytes,
        "options": kept,
    }


def _sealed(book: OwnBook, deed: Deed) -> bytes | None:
    if not deed.env and deed.input is None:
        return None
    return book.sealer.seal(msgspec.msgpack.encode(_Secret(deed.env, deed.input)))


def _kept_deed(book: OwnBook, row: FleetRunRow) -> Deed:
    """Raises: Conflict, PermanentError."""
    if "options" not in row.orders:
        raise Conflict(
            f"fleet run {row.key} is a step of a run of the engine", hint=f"dogwatch run rerun {row.key.run_id}"
        )
    secret = _Secret()
    if row.sealed is not None:
        secret = msgspec.msgpack.decode(book.sealer.open(row.sealed), type=_Secret)
    return Deed(
        kind=row.orders["kind"],
        what=row.what,
        script=row.orders["script"],
        arguments=row.orders["arguments"],
        limit_bytes=row.orders["limit_bytes"],
        env=secret.env,
        input=secret.input,
    )


async def taken_up(
    book: OwnBook, given: str, explicit: Mapping[str, Any], *, failed_only: bool, limit: str = ""
) -> Setup:
    """Set up what goes on with a run, or does it again where it failed. explicit: options that are to be others now.

    Raises: NotFound, Conflict, UsageError, ConfigError.
    """
    from dogwatch.cli.fleet_common import inventory_of
    from dogwatch.fleet.book.values import OPEN_STATES
    from dogwatch.fleet.targets import choose

    row = await book.show(await book.resolve(given))
    kept = await book.hosts(row.key)
    deed = _kept_deed(book, row)
    options = {**row.orders["options"], **{name: value for name, value in explicit.items() if name in _KEPT}}
    inventory = inventory_of(options["paths"], options["sources"])
    if failed_only:
        chosen = [one for one in kept if one.result is not None and not one.result.ok and not _is_open(one)]
        if limit:
            left = set(choose(limit, inventory))
            chosen = [one for one in chosen if one.host in left]
        if not chosen:
            raise NotFound(f"no host of fleet run {row.key} failed", hint=_hint(kept, row))
        return Setup(
            deed=deed,
            options=options,
            targets=row.targets,
            inventory=inventory,
            hosts={one.host: one.labels for one in chosen},
            retry_of=str(row.key),
        )
    done = {one.host: one.result for one in kept if one.result is not None and one.result.state not in OPEN_STATES}
    if len(done) == len(kept):
        raise Conflict(f"fleet run {row.key} has ended on all of its {len(kept)} hosts", hint=_hint(kept, row))
    await asyncio.to_thread(_unchanged, deed)
    return Setup(
        deed=deed,
        options=options,
        targets=row.targets,
        inventory=inventory,
        hosts={one.host: one.labels for one in kept},
        done=done,
        row=row,
    )


def _is_open(one: Kept) -> bool:
    from dogwatch.fleet.book.values import OPEN_STATES

    return one.result is None or one.result.state in OPEN_STATES


def _hint(kept: Sequence[Kept], row: FleetRunRow) -> str:
    if any(_is_open(one) for one in kept):
        return f"dogwatch fleet run --resume {row.key}"
    if any(one.result is not None and not one.result.ok for one in kept):
        return f"dogwatch fleet run --retry-failed {row.key}"
    return "all went well"


def _unchanged(deed: Deed) -> None:
    """Raises: Conflict where the rest of the hosts would get another file than the first."""
    if deed.kind != "copy":
        return
    from dogwatch.fleet.files import digest

    source = Path(deed.arguments["source"])
    if not source.is_file() or digest(source) != deed.arguments["digest"]:
        raise Conflict(
            f"{source} is not any more what was copied to the first hosts", hint="copy it anew to all of them"
        )


def tell_batches(what: str, hosts: Sequence[str], rollout: Any, as_json: bool) -> int:
    """Say which hosts would have their turn, in which batches."""
    from dogwatch.fleet.inventory.ranges import fold
    from dogwatch.fleet.rollout import cut_batches

    batches = cut_batches(hosts, rollout.batches)
    if as_json:
        print_json({"command": what, "hosts": len(hosts), "batches": batches})
        return 0
    click.echo(f"would run on {len(hosts)} hosts: {one_line(what)}")
    for number, batch in enumerate(batches, 1):
        click.echo(f"  batch {number}, {len(batch)} hosts: {fold(batch)}")
    return 0


def on_hosts(deed: Deed, options: Mapping[str, Any]) -> int:
    """Carry it out on the hosts that the options choose, tell the results, and return the exit code."""
    carried = gather_results(deed, options)
    return 0 if carried is None else finish(carried, options)


def gather_results(deed: Deed, options: Mapping[str, Any]) -> Carried | None:
    """Carry it out on the hosts that the options choose; None where only the batches were to be told."""
    from dogwatch.cli.fleet_common import chosen_hosts, inventory_of

    rollout = order_of(deed, options).rollout
    inventory = inventory_of(options["paths"], options["sources"])
    hosts = chosen_hosts(inventory, options["targets"], options["limit"])
    if options["only_check"]:
        tell_batches(deed.what, hosts, rollout, options["as_json"])
        return None
    setup = Setup(
        deed=deed,
        options=dict(options),
        targets=",".join(options["targets"]) + (f" & {options['limit']}" if options["limit"] else ""),
        inventory=inventory,
        hosts={host: inventory.labels(host) for host in hosts},
    )

    async def make(_book: OwnBook) -> Setup:
        return setup

    return carry_out(make)


def go_on(given: str, options: Mapping[str, Any], explicit: Mapping[str, Any], *, failed_only: bool) -> int:
    """Take a run up again, or start one on the hosts that failed in it, and return the exit code."""
    if options["only_check"]:
        return _tell_rest(given, options, explicit, failed_only=failed_only)

    async def make(book: OwnBook) -> Setup:
        return await taken_up(book, given, explicit, failed_only=failed_only, limit=options["limit"])

    return finish(carry_out(make, "" if failed_only else given), options)


def _tell_rest(given: str, options: Mapping[str, Any], explicit: Mapping[str, Any], *, failed_only: bool) -> int:
    from dogwatch.fleet.book.own import own_book

    async def look() -> Setup:
        async with own_book(data_folder(), make=False) as book:
            return await taken_up(book, given, explicit, failed_only=failed_only, limit=options["limit"])

    setup = asyncio.run(look())
    rest = [host for host in setup.hosts if host not in setup.done]
    return tell_batches(setup.deed.what, rest, order_of(setup.deed, setup.options).rollout, options["as_json"])


def finish(carried: Carried, options: Mapping[str, Any]) -> int:
    """Tell the results; return the exit code."""
    from dogwatch.cli.fleet_output import tell
    from dogwatch.fleet.results import exit_code

    tell(
        carried.results,
        carried.reason,
        run_id=str(carried.key),
        as_json=options["as_json"],
        diff=bool(options.get("diff")),
    )
    return 128 + carried.ended_by if carried.ended_by else exit_code(carried.results)
