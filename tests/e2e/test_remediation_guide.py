"""The worked example of the guide, run as it is written: only addresses and commands of this machine are put in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running import running, wait_until
from tests.e2e.test_remedies import Server, healthy, incident, resolved

from dogwatch.config.load import Loader
from dogwatch.daemon.sections import SECTIONS

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "remediation.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path).kept() as one:
        yield one


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block-{number}" for number in range(len(BLOCKS))])
def test_every_example_is_a_configuration(block: str, tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.yaml"
    path.write_text(block)
    loader = Loader([path], SECTIONS, environ={})
    assert loader.validate(loader.parse())


def test_the_worked_example(tmp_path: Path, server: Server) -> None:
    """A server that dies: the first step does not help, the second does."""
    text = BLOCKS[0]
    for before, after in (
        ("http://127.0.0.1:8080/health", f"http://127.0.0.1:{server.port}/health"),
        ("every: 5s", "every: 200ms\n    timeout: 200ms"),
        ("systemctl restart shop.service", f'"{sys.executable} -c pass; echo restart >> {server.acts}"'),
        ("/opt/shop/roll-back", f'"echo roll-back >> {server.acts}; touch {server.folder}/again"'),
        ("verify: 1m ", "verify: 1s "),
        ("attempts: 2", "attempts: 1"),
        ("https://hooks.slack.com/services/ops", "http://127.0.0.1:9/"),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    with running(tmp_path, text) as daemon:
        healthy(daemon)
        server.kill()
        wait_until(lambda: "roll-back" in server.lines, within_s=60, what="the second step")
        resolved(daemon)
        assert server.lines == ["restart", "roll-back"]
        kinds = [note["kind"] for note in incident(daemon)["timeline"]]
        wanted = ("acting", "acted", "failed", "helped")
        assert [kind for kind in kinds if kind in wanted] == ["acting", "acted", "failed", "acting", "acted", "helped"]
        told = daemon.run("explain", "1").stdout
        assert "restart the shop: no proof within 1s" in " ".join(told.split()) or "no proof" in str(incident(daemon))
        assert "budget web: 3 of 3 in 1h" in told
