"""The grpc kind against grpcio's server and its health service, and against what is not gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from tests.probing import Trust, ask, peer

from dogwatch.probes.kinds.grpc import GrpcProbe, _request, _serving_status
from dogwatch.probes.progress import ProbeFailed
from dogwatch.probes.trust import TlsOptions

STATUS = health_pb2.HealthCheckResponse


class Watcher(grpc.aio.ServerInterceptor):
    """Keeps what calls carried; refuses those without the token, if one is wanted."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.metadata: list[dict[str, Any]] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        self.metadata.append(metadata)
        if self.token and metadata.get("authorization") != self.token:

            async def refuse(_request: Any, context: Any) -> None:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you: ä?")

            return grpc.unary_unary_rpc_method_handler(refuse)
        return await continuation(details)


@contextlib.asynccontextmanager
async def server(
    statuses: dict[str, int], *, credentials: Any = None, interceptors: Sequence[Any] = (), healthy: bool = True
) -> AsyncIterator[int]:
    running = grpc.aio.server(interceptors=interceptors)
    if healthy:
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, running)
        for name, status in statuses.items():
            await servicer.set(name, status)
    if credentials is None:
        port = running.add_insecure_port("127.0.0.1:0")
    else:
        port = running.add_secure_port("127.0.0.1:0", credentials)
    await running.start()
    try:
        yield port
    finally:
        await running.stop(None)


async def test_serving_or_not() -> None:
    statuses = {"": STATUS.SERVING, "shop.Cart": STATUS.NOT_SERVING, "ü" * 200: STATUS.SERVING}
    async with server(statuses) as port:
        good = await ask(GrpcProbe(host=f"127.0.0.1:{port}"))
        bad = await ask(GrpcProbe(host=f"127.0.0.1:{port}", service="shop.Cart"))
        long = await ask(GrpcProbe(host=f"127.0.0.1:{port}", service="ü" * 200))
        unknown = await ask(GrpcProbe(host=f"127.0.0.1:{port}", service="nobody"))
    assert good.success, good.message
    assert (good.values["serving_status"], good.values["grpc_status"], good.values["http_status"]) == (
        "SERVING",
        0,
        200,
    )
    assert good.values["tls"] is False
    assert (bad.reason, bad.values["serving_status"]) == ("unhealthy", "NOT_SERVING")
    assert long.success
    assert (unknown.reason, unknown.values["grpc_status"]) == ("status", 5)
    assert "NOT_FOUND" in unknown.message


async def test_a_server_without_the_health_service() -> None:
    async with server({}, healthy=False) as port:
        result = await ask(GrpcProbe(host=f"127.0.0.1:{port}"))
    assert (result.reason, result.values["grpc_status"]) == ("status", 12)
    assert "UNIMPLEMENTED" in result.message


async def test_metadata_and_deadline_are_sent() -> None:
    watcher = Watcher("Bearer hunter2")
    async with server({"": STATUS.SERVING}, interceptors=[watcher]) as port:
        good = await ask(
            GrpcProbe(host=f"127.0.0.1:{port}", metadata={"authorization": "Bearer hunter2", "x-bin": "ab"})
        )
        bad = await ask(GrpcProbe(host=f"127.0.0.1:{port}", metadata={"authorization": "Bearer wrong"}))
    assert good.success, good.message
    assert watcher.metadata[0]["x-bin"] == b"ab"
    assert bad.values["grpc_status"] == 16
    assert "who are you: ä?" in bad.message
    assert "wrong" not in bad.message


async def test_tls_and_client_certificates(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    leaf = trust.ca.issue_cert("localhost", "127.0.0.1")
    key, chain = leaf.private_key_pem.bytes(), b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=trust.ca.cert_pem.bytes(), require_client_auth=True
    )
    ours = tmp_path / "ours.pem"
    trust.ca.issue_cert("dog@example.org").private_key_and_cert_chain_pem.write_to_path(str(ours))
    async with server({"": STATUS.SERVING}, credentials=credentials) as port:
        options = TlsOptions(ca_file=trust.ca_file, cert_file=str(ours))
        good = await ask(GrpcProbe(host=f"localhost:{port}", tls=options))
        without = await ask(GrpcProbe(host=f"localhost:{port}", tls=TlsOptions(ca_file=trust.ca_file)))
        untrusted = await ask(GrpcProbe(host=f"localhost:{port}", tls=True))
        plain = await ask(GrpcProbe(host=f"localhost:{port}"))
    assert good.success, good.message
    assert good.values["tls_days_left"] > 0
    assert good.values["tls_version"].startswith("TLS 1.")
    assert without.reason in {"tls", "reset"}
    assert untrusted.reason == "certificate"
    assert plain.reason in {"protocol", "reset"}


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\4\4\0\0\0\0\0\0\3\0\0\0\0" + b"\xff" * 200, b""]
)
async def test_what_is_not_grpc(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    async with peer(other) as port:
        result = await ask(GrpcProbe(host=f"127.0.0.1:{port}"))
    assert result.reason in {"protocol", "reset"}, result


@given(st.text(max_size=300))
def test_requests_are_what_protobuf_writes(service: str) -> None:
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert _request(service) == b"\0" + len(message).to_bytes(4, "big") + message


@given(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=20))
def test_answers_are_read_as_protobuf_reads_them(status: int, unknown_field: bytes) -> None:
    # A field that a later version may add stands before the known one.
    message = b"\x7a" + bytes([len(unknown_field)]) + unknown_field + STATUS(status=status).SerializeToString()
    assert _serving_status(b"\0" + len(message).to_bytes(4, "big") + message, "a") == STATUS.ServingStatus.Name(status)


@given(st.binary(max_size=60))
def test_any_answer_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(ProbeFailed):
        assert _serving_status(body, "a")
