"""kill -9 at random instants under writes and rotations: every line arrives; a file sink has each exactly once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.log_world import Agent, Writer, in_order, life
from tests.receiver import Received, receiving


def config(folder: Path, sinks: str, more: str = "") -> Path:
    path = folder / "dogwatch.yaml"
    path.write_text(
        f"""
logs:
  checkpoint: 200ms
  sources:
    - name: app
      file: {{paths: [{folder}/in/*.log], start: beginning, search: 200ms}}
  sinks:
{sinks}
{more}"""
    )
    (folder / "in").mkdir()
    return path


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_file_sink_has_each_line_exactly_once(tmp_path: Path, compression: str) -> None:
    out = tmp_path / "out" / "all.log"
    rotate = "200KB" if compression == "none" else "0B"
    sink = f"    - name: out\n      file: {{path: {out}, compression: {compression}, rotate: {rotate}, keep: 1000}}"
    agent = Agent(config(tmp_path, sink), tmp_path / "state")
    writer = Writer(tmp_path / "in", 3)
    await life(agent, writer, 6, 1)

    def found() -> list[str]:
        files = sorted(out.parent.glob("all.log*"), key=lambda one: -int(one.suffix[1:]) if one.suffix != ".log" else 0)
        data = b"".join(one.read_bytes() for one in files)
        if compression == "zstd":
            import zstandard

            data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
        return data.decode().splitlines()

    await writer.until(lambda: out.exists() and set(found()) >= writer.all())
    assert await agent.stop() == 0
    lines = found()
    assert set(lines) == writer.all()
    assert len(lines) == len(set(lines)), "a line is in the file twice"
    in_order(lines)


async def test_http_gets_each_line_and_duplicates_carry_the_same_id(tmp_path: Path) -> None:
    chance = random.Random(5)

    def answer(_request: Received) -> tuple[int, dict[str, str]] | str:
        # Some answers are lost, some are refusals: what was taken and not answered comes again.
        return "cut" if chance.random() < 0.1 else (503 if chance.random() < 0.1 else 200, {})

    async with receiving(answer=answer) as receiver:
        retry = "      retry: {base: 10ms, cap: 50ms}"
        sink = f"    - name: out\n      http: {{url: {receiver.url}/in, compression: none}}\n{retry}"
        agent = Agent(config(tmp_path, sink), tmp_path / "state")
        writer = Writer(tmp_path / "in", 3)
        await life(agent, writer, 6, 2)

        def records() -> list[dict[str, str]]:
            return [json.loads(line) for one in receiver.requests for line in one.body.splitlines()]

        await writer.until(lambda: {one["message"] for one in records()} >= writer.all())
        assert await agent.stop() == 0
        ids: dict[str, set[str]] = {}
        for one in records():
            ids.setdefault(one["message"], set()).add(one["id"])
        assert set(ids) == writer.all()
        assert all(len(known) == 1 for known in ids.values())
        in_order(list(ids))


async def test_a_dead_sink_stops_nobody_and_its_disk_buffer_survives_the_kill(tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    well = False

    async with receiving(answer=lambda _request: (200 if well else 503, {})) as receiver:
        sinks = (
            f"    - name: out\n      file: {{path: {out}}}\n"
            f"    - name: away\n      http: {{url: {receiver.url}/in, compression: none}}\n"
            "      buffer: {memory: 4KiB, disk: 1MiB}\n      retry: {base: 10ms, cap: 50ms}"
        )
        agent = Agent(config(tmp_path, sinks), tmp_path / "state")
        writer = Writer(tmp_path / "in", 2)
        await life(agent, writer, 3, 3)
        await writer.until(lambda: set(out.read_text().splitlines()) >= writer.all())
        refused = len(receiver.requests)
        well = True

        def taken() -> set[str]:
            return {
                json.loads(line)["message"] for one in receiver.requests[refused:] for line in one.body.splitlines()
            }

        await writer.until(lambda: taken() >= writer.all())
        assert await agent.stop() == 0
        assert taken() == writer.all()
        lines = out.read_text().splitlines()
        assert len(lines) == len(set(lines))
