"""Draws the pictures of docs/images from a real daemon that watches loopback servers. By hand: `make screenshots`.

The daemon runs for a minute and a half in a temporary folder; nothing of the machine but its figures is shown.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from playwright.async_api import Browser, async_playwright

IMAGES = Path(__file__).parent.parent / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
RUN_S = 90.0
STARTED_S = time.monotonic()
# name, group, path: the path says how the server below answers.
TARGETS = (
    ("shop", "web", "ok"),
    ("shop/checkout", "web", "fails"),
    ("search", "web", "slow"),
    ("login", "web", "wave"),
    ("images", "web", "ok"),
    ("orders", "backend", "wave"),
    ("payments", "backend", "once"),
    ("stock", "backend", "ok"),
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer by the path: well, in waves, slowly, with an error now, or with one a while ago."""
    try:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        way = line.split()[1].decode().strip("/") if len(line.split()) > 1 else ""
        now_s = time.monotonic() - STARTED_S
        status = b"200 OK"
        pause_s = 0.012 + 0.004 * math.sin(now_s)
        if way == "wave":
            pause_s = 0.05 + 0.03 * math.sin(now_s / 9)
        elif way == "slow":
            pause_s = 0.42 + 0.05 * math.sin(now_s / 5)
        if (way == "fails" and now_s > RUN_S - 14) or (way == "once" and 45 < now_s < 50):
            status = b"503 Service Unavailable"
        await asyncio.sleep(pause_s)
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 3\r\n\r\nok\n" % status)
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def configuration(port: int) -> bytes:
    """Return what the pictures' daemon watches, as YAML that is JSON."""
    quick = {"every": "1s", "timeout": "900ms"}
    probes: list[dict[str, object]] = [
        {
            "name": name,
            "group": group,
            "http": {
                "url": f"http://127.0.0.1:{port}/{way}",
                **({"degraded_if": "duration_s > 0.3"} if way == "slow" else {}),
            },
            "labels": {"team": "shop"},
            **quick,
        }
        for name, group, way in TARGETS
    ]
    probes += [
        {"name": "database", "group": "backend", "tcp": f"127.0.0.1:{port}", **quick},
        {"name": "edge", "group": "network", "tcp": f"127.0.0.1:{port}", **quick},
        {"name": "nightly backup", "group": "jobs", "heartbeat": {"period": "1d", "grace": "1h"}},
        {"name": "certificates renewed", "group": "jobs", "exec": {"args": ["/bin/true"]}, **quick},
    ]
    host = {"name": "watch-1", "every": "2s"}
    return msgspec.json.encode({"probes": probes, "host": host, "jobs": [DEPLOY]})


def ticks(text: str, seconds: float) -> dict[str, dict[str, str]]:
    """Return a step's action that writes for so long."""
    return {"exec": {"run": f"for i in $(seq {seconds * 5:.0f}); do echo {text} $i; sleep 0.2; done"}}


DEPLOY = {
    "name": "deploy",
    "doc": "Builds the shop, asks, and rolls it out.",
    "labels": {"team": "shop"},
    "parameters": {"version": {"pattern": "v[0-9.]+"}, "env": {"choices": ["staging", "production"]}},
    "steps": [
        {"name": "build", **ticks("compile {{ params.version }}", 1)},
        {"name": "unit-tests", "needs": ["build"], **ticks("test passed", 2)},
        {"name": "scan", "needs": ["build"], **ticks("package clean", 1)},
        {"name": "sign-off", "needs": ["unit-tests", "scan"], "approve": {"message": "Roll out?"}},
        {"name": "roll-out", **ticks("host updated", 60)},
        {"name": "smoke-test", **ticks("answers", 1)},
        {"name": "clean-up", "always": True, **ticks("removed", 1)},
    ],
}


def dogwatch(listen: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "dogwatch", *arguments, "--server", f"http://{listen}"]


async def command(listen: str, *arguments: str) -> str:
    """Return what a command of ours prints."""
    process = await asyncio.create_subprocess_exec(*dogwatch(listen, *arguments), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().strip()


async def a_run(listen: str) -> str:
    """Start a run that is in the middle of its work, and return its id."""
    run_id = await command(listen, "job", "run", "deploy", "-p", "version=v1.4", "-p", "env=production")
    await asyncio.sleep(4)
    await command(listen, "run", "approve", run_id, "--comment", "checked")
    await asyncio.sleep(3)
    return run_id


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def draw(browser: Browser, url: str, name: str, *, width: int, height: int, scheme: str = "light") -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        locale="en-GB",
        timezone_id="UTC",
    )
    page = await context.new_page()
    await page.goto(url)
    await page.locator("#live[data-state=live]").wait_for()
    if "/targets/" in url:
        await page.locator(".plot canvas").first.wait_for()
    await page.wait_for_timeout(1200)
    await page.screenshot(path=IMAGES / name)
    await context.close()
    print(f"{name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dogwatch.yaml").write_bytes(configuration(port))
        listen = f"127.0.0.1:{free_port()}"
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dogwatch", "up", "--config", "dogwatch.yaml"),
            *("--data", "data", "--listen", listen, "--log-level", "warning"),
            cwd=folder,
            env=dict(os.environ),
        )
        try:
            await asyncio.sleep(3)
            reader, writer = await asyncio.open_connection(*listen.split(":"))
            writer.write(b"POST /ping/nightly%20backup HTTP/1.1\r\nHost: " + listen.encode() + b"\r\n\r\n")
            await reader.readline()
            writer.close()
            await asyncio.sleep(RUN_S - 3)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                url = f"http://{listen}/"
                await draw(browser, url, "overview.png", width=1280, height=1000)
                await draw(browser, url, "overview-dark.png", width=1280, height=1000, scheme="dark")
                await draw(browser, url + "targets/login", "target.png", width=1280, height=1000)
                await draw(browser, url, "phone.png", width=390, height=844)
                run_id = await a_run(listen)
                await draw(browser, f"{url}runs/{run_id}", "run.png", width=1280, height=1250)
                await draw(browser, f"{url}runs/{run_id}", "run-dark.png", width=1280, height=1250, scheme="dark")
                await draw(browser, f"{url}jobs/deploy", "job.png", width=1280, height=760)
                await browser.close()
        finally:
            daemon.send_signal(signal.SIGTERM)
            await daemon.wait()
            server.close()


if __name__ == "__main__":
    asyncio.run(main())
