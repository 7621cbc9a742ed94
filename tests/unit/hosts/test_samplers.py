"""Counters that reset, devices and processes that come and go, files that vanish and come back."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.core.metrics import render
from dogwatch.hosts.calls import BlockingCalls, Refused
from dogwatch.hosts.collector import CollectorError, Moment, Sampler, field_name
from dogwatch.hosts.collectors.cpu import CpuCollector
from dogwatch.hosts.collectors.disk_io import DiskIoCollector
from dogwatch.hosts.collectors.filesystem import FilesystemCollector, parse_mounts
from dogwatch.hosts.collectors.links import LinksCollector
from dogwatch.hosts.collectors.memory import MemoryCollector
from dogwatch.hosts.collectors.network import NetworkCollector
from dogwatch.hosts.collectors.pressure import PressureCollector
from dogwatch.hosts.collectors.processes import ProcessesCollector
from dogwatch.hosts.collectors.system import parse_os_release
from dogwatch.hosts.history import MAX_DEVICES
from dogwatch.hosts.machine import KernelFile, Machine
from dogwatch.hosts.rates import Rates
from dogwatch.hosts.view import Glance

NET = "Inter-|   Receive |  Transmit\n face |bytes |bytes\n"


class Box:
    """A machine whose files a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 100.0

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def at(self, seconds: float = 10.0) -> Moment:
        self.now_s += seconds
        return Moment(1_800_000_000 + self.now_s, self.now_s)

    @property
    def machine(self) -> Machine:
        return Machine(str(self.root))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def glance(sampler: Sampler) -> Glance:
    seen = Glance()
    sampler.show(seen)
    return seen


def shown(sampler: Sampler) -> dict[str, float]:
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in render(sampler.families()).splitlines()
        if not line.startswith("#")
    }


def stat(*cpus: tuple[int, str]) -> str:
    total = [sum(int(row.split()[index]) for _, row in cpus) for index in range(8)]
    lines = [f"cpu  {' '.join(map(str, total))}", *(f"cpu{number} {row}" for number, row in cpus), "intr 5 0", "ctxt 7"]
    return "\n".join(lines) + "\n"


def test_cpu_ratio_is_of_the_time_between_samples(box: Box) -> None:
    box.write("proc/stat", stat((0, "100 0 100 800 0 0 0 0")))
    sampler = CpuCollector().open(box.machine)
    sampler.sample(box.at())
    assert glance(sampler).cpu_ratio is None, "one sample has no rate"
    assert list(sampler.history()) == []
    box.write("proc/stat", stat((0, "130 0 110 850 10 0 0 0")))
    sampler.sample(box.at())
    assert glance(sampler).cpu_ratio == pytest.approx(0.4)
    assert dict(sampler.history())['dogwatch_host_cpu_ratio{mode="user"}'] == pytest.approx(0.3)
    assert 'dogwatch_host_cpu_ratio{mode="idle"}' not in dict(sampler.history())
    sampler.close()


def test_cpu_counters_never_step_back_unless_the_cpu_was_taken_out(box: Box) -> None:
    idle = 'node_cpu_seconds_total{cpu="0",mode="idle"}'
    iowait = 'node_cpu_seconds_total{cpu="0",mode="iowait"}'
    sampler = CpuCollector().open(box.machine)
    values = []
    for row in ("0 0 0 9000 500 0 0 0", "0 0 0 8990 490 0 0 0", "0 0 0 100 1 0 0 0"):
        box.write("proc/stat", stat((0, row)))
        sampler.sample(box.at())
        values.append((shown(sampler)[idle], shown(sampler)[iowait]))
    assert values == [(90.0, 5.0), (90.0, 5.0), (1.0, 0.01)]
    assert glance(sampler).cpu_ratio is None, "all that was counted is gone: nothing is known of this interval"
    sampler.close()


def test_cpus_come_and_go(box: Box) -> None:
    row = "1 0 1 100 0 0 0 0"
    sampler = CpuCollector().open(box.machine)
    for cpus in ([0, 1], [0], [0, 1, 2]):
        box.write("proc/stat", stat(*((number, row) for number in cpus)))
        sampler.sample(box.at())
        labels = {text.split('"')[1] for text in shown(sampler) if "cpu=" in text}
        assert labels == {str(number) for number in cpus}
        assert glance(sampler).cores == len(cpus)
    sampler.close()


def net(**devices: tuple[int, int]) -> str:
    return NET + "".join(f"{name}: {rx} 0 0 0 0 0 0 0 {tx} 0 0 0 0 0 0 0\n" for name, (rx, tx) in devices.items())


def test_network_rates_survive_resets_and_devices_that_come_and_go(box: Box) -> None:
    sampler = NetworkCollector().open(box.machine)
    steps = [
        (net(eth0=(1000, 500), lo=(5, 5)), None),
        (net(eth0=(2000, 500), lo=(9999, 5)), 100.0),  # lo is no traffic of the host
        (net(eth0=(10, 0)), None),  # reset
        (net(eth0=(1010, 0), eth1=(7, 7)), 100.0),  # eth1 is new: no rate yet
        (net(eth1=(107, 7)), 10.0),
        (net(), None),
    ]
    for text, rate in steps:
        box.write("proc/net/dev", text)
        sampler.sample(box.at())
        assert glance(sampler).network_receive_bytes_per_s == rate
    assert shown(sampler) == {}
    sampler.close()


def test_history_is_bounded_and_physical_devices_come_first(box: Box) -> None:
    devices = {f"veth{number:04d}": (0, 0) for number in range(300)} | {"wlan0": (0, 0)}
    sampler = NetworkCollector().open(box.machine)
    for _ in range(2):
        box.write("proc/net/dev", net(**devices))
        sampler.sample(box.at())
    kept = dict(sampler.history())
    assert len(kept) == 2 * MAX_DEVICES
    assert 'dogwatch_host_network_receive_bytes_per_s{device="wlan0"}' in kept
    assert len(shown(sampler)) == 16 * 301, "Prometheus is shown them all"
    sampler.close()


def disks(**devices: int) -> str:
    numbers = "{0} 0 {0} 0 {0} 0 {0} 0 0 {0} 0 0 0 0 0 0 0"
    return "".join(f" 8 0 {name} {numbers.format(value)}\n" for name, value in devices.items())


def test_disks_come_and_go_and_swap_places(box: Box) -> None:
    sampler = DiskIoCollector().open(box.machine)
    steps = [
        (disks(sda=10, sda1=5, loop0=1), {"sda"}, None),
        (disks(sda=20, sda1=5, loop0=1), {"sda"}, 512.0),
        (disks(sdb=1, sda1=5, loop0=1), {"sdb"}, None),  # as many lines, another disk
        (disks(sda=30, sdb=11), {"sda", "sdb"}, 512.0),
        (disks(sda=40, sdb=21, sdc=0), {"sda", "sdb", "sdc"}, 1024.0),
        ("", set(), None),
    ]
    for text, names, rate in steps:
        box.write("proc/diskstats", text)
        sampler.sample(box.at())
        assert {key.split('"')[1] for key in shown(sampler)} == names
        assert glance(sampler).disk_read_bytes_per_s == rate
    sampler.close()


def test_links_come_and_go_and_other_files_are_passed_over(box: Box) -> None:
    def device(name: str, state: str) -> None:
        for file, text in (("operstate", state), ("mtu", "1500"), ("carrier_changes", "1"), ("tx_queue_len", "9")):
            box.write(f"sys/class/net/{name}/{file}", f"{text}\n")

    before = open_descriptors()
    sampler = LinksCollector(max_devices=3).open(box.machine)
    device("eth0", "up")
    device("eth1", "down")
    box.write("sys/class/net/bonding_masters", "bond0\n")
    sampler.sample(box.at())
    assert shown(sampler)['node_network_up{device="eth0"}'] == 1
    assert shown(sampler)['node_network_up{device="eth1"}'] == 0
    assert len(shown(sampler)) == 8
    assert open_descriptors() == before + 8
    shutil.rmtree(box.root / "sys/class/net/eth0")
    device("eth1", "up")
    sampler.sample(box.at())
    assert {key.split('"')[1]: value for key, value in shown(sampler).items() if "_up" in key} == {"eth1": 1}
    for number in range(5):
        device(f"veth{number}", "up")
    sampler.sample(box.at())
    assert "4 devices beyond max_devices" in sampler.note()
    sampler.close()
    assert open_descriptors() == before


def test_a_file_that_vanishes_is_an_error_and_is_opened_again(box: Box) -> None:
    file = KernelFile(str(box.root / "f"))
    with pytest.raises(FileNotFoundError) as caught:
        file.read()
    assert caught.value.filename == str(box.root / "f")
    box.write("f", "one")
    assert file.read() == b"one"
    box.write("f", "two, and longer")
    assert file.read() == b"two, and longer"
    file.close()
    file.close()


@pytest.mark.parametrize("size", [0, 1, 1999, 2000, 8191, 8192, 8193, 100_000])
def test_files_of_every_size_are_read_whole(box: Box, size: int) -> None:
    box.write("f", "x" * size)
    file = KernelFile(str(box.root / "f"))
    assert len(file.read()) == size
    file.close()


def test_long_kernel_files_are_read_whole() -> None:
    """seq_file answers a page at a time; what one read gives is not all."""
    file = Machine().proc("kallsyms")
    try:
        assert len(file.read()) > 65536
    except OSError as error:
        pytest.skip(f"/proc/kallsyms: {error}")
    finally:
        file.close()


def test_rates_of_one_instant_change_nothing() -> None:
    rates: Rates[str] = Rates()
    rates.update(10.0, {"a": (1.0,)})
    rates.update(20.0, {"a": (11.0,)})
    rates.update(20.0, {"a": (999.0,)})
    assert rates.by_key == {"a": (1.0,)}
    assert rates.total(0, ["a", "b"]) == 1.0
    assert rates.total(0, ["b"]) is None


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 2**64)), max_size=3), max_size=8))
def test_rates_are_never_negative(samples: list[dict[str, tuple[float, ...]]]) -> None:
    rates: Rates[str] = Rates()
    for index, counters in enumerate(samples):
        rates.update(float(index), counters)
        assert rates.by_key.keys() <= counters.keys()
        assert all(value >= 0 for row in rates.by_key.values() for value in row)


def test_pressure_is_the_share_between_samples(box: Box) -> None:
    def write(total: int) -> None:
        for resource_name in ("cpu", "io", "memory"):
            line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n"
            box.write(f"proc/pressure/{resource_name}", f"some {line}full {line}")

    sampler = PressureCollector().open(box.machine)
    write(1_000_000)
    sampler.sample(box.at())
    assert glance(sampler).pressure == {}
    write(6_000_000)
    sampler.sample(box.at())
    assert glance(sampler).pressure["io_full"] == pytest.approx(0.5)
    assert dict(sampler.history())['dogwatch_host_pressure_ratio{resource="cpu",kind="waiting"}'] == pytest.approx(0.5)
    sampler.close()


def test_memory_without_available_is_what_free_takes(box: Box) -> None:
    box.write("proc/meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 20 kB\nCached: 30 kB\n")
    sampler = MemoryCollector(vmstat_fields="").open(box.machine)
    sampler.sample(box.at())
    assert glance(sampler).memory_used_ratio == pytest.approx(0.4)
    assert glance(sampler).swap_used_ratio == 0.0
    sampler.close()


def process(pid: int, name: str, ticks: int, *, started: int = 1, pages: int = 10) -> str:
    return f"{pid} ({name}) S 0 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 2 0 {started} 0 {pages} 0 1 1\n"


def test_processes_end_and_numbers_are_used_again(box: Box) -> None:
    box.write("proc/stat", stat((0, "1 0 1 1 0 0 0 0"), (1, "1 0 1 1 0 0 0 0")))
    box.write("etc/passwd", f"me:x:{os.getuid()}:0::/:/bin/sh\nbroken\n")
    machine = box.machine
    machine.cores = 2
    sampler = ProcessesCollector(top=2).open(machine)
    ticks = machine.ticks_per_s
    for pid in (1, 20, 30):
        box.write(f"proc/{pid}/stat", process(pid, f"p {pid})", 0, pages=pid))
    sampler.sample(box.at())
    seen = glance(sampler)
    assert [view.name for view in seen.processes] == ["p 30)", "p 20)"], "no rate yet: the largest"
    assert seen.processes[0].user == "me"
    assert seen.process_count == 3
    box.write("proc/1/stat", process(1, "p 1", 5 * ticks))
    box.write("proc/20/stat", process(20, "other", 9 * ticks, started=99, pages=20))
    (box.root / "proc/30/stat").unlink()
    (box.root / "proc/30").rmdir()
    sampler.sample(box.at())
    seen = glance(sampler)
    by_name = {view.name: view for view in seen.processes}
    assert by_name["p 1"].cpu_ratio == pytest.approx(0.25), "5 s of 10 s on one of two CPUs"
    assert by_name["other"].cpu_ratio == 0.0, "another process under an old number has no rate yet"
    assert seen.process_count == 2
    sampler.sample(box.at())
    assert {view.cpu_ratio for view in glance(sampler).processes} == {0.0}, "it sleeps now"
    sampler.close()


def test_hidden_processes_are_noted(box: Box) -> None:
    box.write("proc/77/stat", process(77, "me", 0))
    sampler = ProcessesCollector().open(box.machine)
    sampler.sample(box.at())
    assert "hidepid" in sampler.note()
    sampler.close()


async def test_many_processes_are_read_in_turns_with_bounded_descriptors(box: Box) -> None:
    for pid in range(1, 601):
        box.write(f"proc/{pid}/stat", process(pid, "p", 0))
    sampler = ProcessesCollector(keep_descriptors=50).open(box.machine)
    before = open_descriptors()
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0)
            others += 1

    task = asyncio.get_running_loop().create_task(other())
    await asyncio.sleep(0)
    pending = sampler.sample(box.at())
    assert pending is not None
    await pending
    task.cancel()
    assert others >= 2, "the event loop had its turn"
    assert glance(sampler).process_count == 600
    assert open_descriptors() - before == 50
    # Cut short, as by a deadline: no descriptor is without an owner.
    pending = sampler.sample(box.at())
    assert pending is not None
    pending.send(None)
    pending.close()
    sampler.close()
    assert open_descriptors() == before


def test_kept_descriptors_never_take_more_than_a_quarter_of_the_limit(box: Box) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        sampler = ProcessesCollector(keep_descriptors=100_000).open(box.machine)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sampler._keep == 250


def test_a_real_process_that_ends_is_forgotten() -> None:
    sampler = ProcessesCollector().open(Machine())
    child = subprocess.Popen(["sleep", "100"])

    def sample() -> None:
        pending = sampler.sample(Moment(0.0, 0.0))
        if pending is not None:
            asyncio.run(_drive(pending))

    sample()
    assert child.pid in sampler._processes
    assert sampler._processes[child.pid].fd >= 0
    child.kill()
    child.wait()
    sample()
    assert child.pid not in sampler._processes
    sampler.close()


async def _drive(pending: object) -> None:
    await pending  # type: ignore[misc]


async def test_calls_are_bounded_and_a_key_is_never_called_twice_at_once() -> None:
    calls = BlockingCalls(limit=2)
    release = threading.Event()
    first = calls.start("a", release.wait)
    with pytest.raises(Refused, match="a still hangs"):
        calls.start("a", release.wait)
    second = calls.start("b", release.wait)
    with pytest.raises(Refused, match="2 other calls hang"):
        calls.start("c", release.wait)
    first.cancel()
    assert calls.running == 2, "cancelling the wait does not end the call"
    release.set()
    assert await second is True
    async with asyncio.timeout(60):
        while calls.running:  # noqa: ASYNC110  # the thread of the cancelled one sets nothing
            await asyncio.sleep(0.001)

    def fail() -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        await calls.start("a", fail)


def test_a_loop_that_is_gone_is_no_trouble_to_a_late_answer() -> None:
    calls = BlockingCalls()
    release = threading.Event()

    async def begin() -> None:
        calls.start("late", release.wait).cancel()

    asyncio.run(begin())
    release.set()
    for thread in threading.enumerate():
        if thread.name == "hosts late":
            thread.join(5.0)
    assert calls.running == 0


async def test_mounts_beyond_the_bound_of_threads_are_reported_not_waited_for(box: Box) -> None:
    release = threading.Event()

    def hang(_path: str) -> os.statvfs_result:
        release.wait()
        raise OSError(5, "Input/output error")

    box.write("proc/1/mounts", "".join(f"srv:/{n} /mnt/{n} nfs4 rw 0 0\n" for n in range(5)))
    machine = Machine(str(box.root), calls=BlockingCalls(limit=3), statvfs=hang)
    sampler = FilesystemCollector(timeout=0.05).open(machine)
    pending = sampler.sample(box.at())
    assert pending is not None
    await pending
    assert machine.calls.running == 3
    errors = {view.mountpoint: view.error for view in glance(sampler).filesystems}
    assert len(errors) == 5
    assert sum("not asked: 3 other calls hang" in error for error in errors.values()) == 2
    assert sum("no answer in" in error for error in errors.values()) == 3
    release.set()
    sampler.close()


def test_mounts_below_one_that_may_hang_may_hang() -> None:
    raw = (
        b"/dev/sda1 / ext4 rw 0 0\nnas:/x /mnt/nas nfs rw 0 0\n/dev/sdb1 /mnt/nas/disk ext4 ro 0 0\n"
        b"/dev/sdc1 /mnt/nasty ext4 rw 0 0\ntmp\\040fs /a\\011b\\134c tmpfs rw 0 0\nshort line\n"
    )
    mounts = {mount.mountpoint: mount for mount in parse_mounts(raw)}
    assert {point for point, mount in mounts.items() if mount.may_hang} == {"/mnt/nas", "/mnt/nas/disk"}
    assert mounts["/mnt/nas/disk"].readonly
    assert mounts["/a\tb\\c"].device == "tmp fs"
    assert len(mounts) == 5


@given(st.binary(max_size=300))
def test_mounts_of_any_bytes_are_parsed(raw: bytes) -> None:
    for mount in parse_mounts(raw):
        assert isinstance(mount.mountpoint, str)


@given(st.text(max_size=200))
def test_os_release_of_any_text_is_parsed(text: str) -> None:
    assert all(name == name.lower() for name in parse_os_release(text))


def test_os_release() -> None:
    assert parse_os_release('# c\nNAME="A \\"B\\""\nID=\'x\'\nEMPTY=\nnonsense\n') == {
        "name": 'A "B"',
        "id": "x",
        "empty": "",
    }


@given(st.text(max_size=60))
def test_a_name_is_a_name_or_an_error(text: str) -> None:
    if text.isascii() and text and text.replace("_", "a").isalnum():
        assert field_name(text) == text
    else:
        with pytest.raises(CollectorError) as caught:
            field_name(text)
        assert len(str(caught.value)) < 80
