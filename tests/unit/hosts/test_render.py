"""The host as text."""

from __future__ import annotations

import unicodedata

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dogwatch.hosts.render import render_host
from dogwatch.hosts.view import CollectorView, ContainerView, FilesystemView, HostView, ProcessView

VIEW = HostView(
    name="web-1",
    kernel="6.1.0-18-amd64",
    os="Debian GNU/Linux 12 (bookworm)",
    cores=8,
    uptime_s=93784.0,
    cpu_ratio=0.35,
    load1=2.5,
    load5=1.25,
    load15=0.75,
    memory_used_ratio=0.5,
    memory_total_bytes=16 << 30,
    swap_used_ratio=0.1,
    network_receive_bytes_per_s=1.5 * 2**20,
    network_transmit_bytes_per_s=2048.0,
    disk_read_bytes_per_s=0.0,
    pressure={"cpu": 0.012, "io": 0.5, "memory": 0.0, "io_full": 0.1},
    process_count=321,
    filesystems=(
        FilesystemView(
            mountpoint="/",
            device="/dev/sda1",
            fstype="ext4",
            size_bytes=100 << 30,
            available_bytes=10 << 30,
            used_ratio=0.9,
            inodes_used_ratio=0.031,
        ),
        FilesystemView(
            mountpoint="/mnt/very/long/path/to/a/network/share/that/hangs",
            device="nas:/x",
            fstype="nfs4",
            size_bytes=0,
            available_bytes=0,
            used_ratio=0.0,
            error="no answer in 4.5 s, for 30 s",
        ),
    ),
    processes=(
        ProcessView(
            pid=1, name="systemd", user="root", cpu_ratio=0.0, resident_bytes=12 << 20, threads=1, descriptors=200
        ),
        ProcessView(
            pid=4321, name="evil\x1b[2J名前", user="www-data", cpu_ratio=0.25, resident_bytes=1 << 30, threads=64
        ),
    ),
    containers=(
        ContainerView(
            container_id="a",
            name="shop",
            image="shop:1",
            state="running",
            health="unhealthy",
            cpu_ratio=0.1,
            restarts=3,
        ),
    ),
    collectors=(
        CollectorView(name="cpu", every_s=15, ok=True),
        CollectorView(name="pressure", every_s=15, ok=True, message="this kernel has no pressure files"),
        CollectorView(name="filesystem", every_s=15, ok=False, message="/mnt/very/long: no answer in 4.5 s, " * 4),
    ),
)


def cells(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def test_everything_is_there_in_80_columns() -> None:
    text = render_host(VIEW, 80)
    lines = text.splitlines()
    assert max(map(cells, lines)) <= 80
    assert lines[0] == "web-1 · Debian GNU/Linux 12 (bookworm) · Linux 6.1.0-18-amd64 · 8 cores"
    assert lines[1] == "  up 1d2h"
    assert "CPU       ███████░░░░░░░░░░░░░  35.0%  load 2.50 1.25 0.75" in lines
    assert "Memory    ██████████░░░░░░░░░░  50.0%  of 16 GiB" in lines
    assert "Swap      ██░░░░░░░░░░░░░░░░░░  10.0%" in lines
    assert "Network   in 1.5 MiB/s, out 2 KiB/s" in lines
    assert "Disk      read 0 B/s, written –" in lines
    assert "Pressure  cpu 1.2%, io 50.0%, memory 0.0%" in lines
    assert any(
        line.split() == ["/", "██████████████████░░", "90.0%", "100", "GiB", "10", "GiB", "3.1%", "ext4"]
        for line in lines
    )
    assert "! no answer in 4.5 s" in text
    assert "running (unhealthy)" in text
    assert "this kernel has no pressure files" not in text, "what a machine has not is no trouble"
    trouble = lines[lines.index("Collectors with trouble") + 1 :]
    assert len(trouble) > 1, "a long message is wrapped, not cut"
    assert trouble[0].startswith("  filesystem  /mnt/very/long: no answer")


def test_processes_are_ordered_and_cannot_move_the_cursor() -> None:
    text = render_host(VIEW, 80)
    assert "\x1b" not in text
    assert "evil?[2J名前" in text
    assert text.index("4321") < text.index("systemd")


def test_a_host_of_which_nothing_is_known_yet() -> None:
    text = render_host(HostView(name="new"), 80)
    assert text.startswith("new\n\nCPU       ░░░░░░░░░░░░░░░░░░░░      –\n")
    assert "Filesystems" not in text


@given(width=st.integers(0, 200), name=st.text(max_size=80))
def test_no_line_is_wider_than_asked(width: int, name: str) -> None:
    view = msgspec.structs.replace(VIEW, name=name)
    for line in render_host(view, width).split("\n"):
        assert sum(0 if unicodedata.combining(c) else cells(c) for c in line) <= max(width, 40)


def test_json_round_trip() -> None:
    assert (
        msgspec.json.decode(msgspec.json.encode(VIEW), type=HostView).filesystems[1].error == VIEW.filesystems[1].error
    )
