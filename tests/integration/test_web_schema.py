"""The API keeps what its OpenAPI document promises: generated requests against a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.fakes import FakeProgram
from tests.fakes_runs import furnish

from dogwatch.web.application import create_web


@pytest.fixture(scope="session")
def api_url() -> Iterator[str]:
    """A server in a thread: schemathesis calls without an event loop."""
    program = FakeProgram()
    furnish(program.runs)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_web(program.services), lifespan="off", ws="none", log_config=None)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            while not server.started:
                time.sleep(0.01)
            assert urlopen(f"{url}/healthz").status == 200
            yield url
        finally:
            server.should_exit = True
            thread.join(20)


def test_api_keeps_its_promises(api_url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{api_url}/api/v1/openapi.json")
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith(("/events", "/follow")):
            continue  # a stream never ends; its own tests are in test_web.py

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keeps(case: schemathesis.Case) -> None:
            # Unknown query parameters are let through on purpose; and a schema cannot say what a cursor of ours is, or
            # that one time lies before another.
            excluded = [negative_data_rejection, positive_data_acceptance]
            case.call_and_validate(timeout=60, excluded_checks=excluded)

        keeps()
        tried.add(operation.path)
    assert len(tried) >= 30
