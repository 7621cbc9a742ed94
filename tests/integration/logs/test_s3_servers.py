"""Servers of S3 that look at signatures, by either way to name a bucket: objects of any name and size, and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.logs.test_real_sinks import Bucket, block, deliver
from tests.log_peers import S3, Peer, running, unique
from tests.log_peers_more import Gateway, Minio
from tests.receiver import Received, receiving

from dogwatch.errors import TransientError
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.sinks.s3 import S3Sink

assert frames.OFFSET
pytestmark = [
    pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process"),
    pytest.mark.allow_leak("fd:socket:*", reason="the client library keeps its connections"),
]
SERVERS: dict[str, type[Peer]] = {"moto": S3, "versitygw": Gateway, "minio": Minio}


class Served:
    """A bucket at a server, made by somebody else's client."""

    def __init__(self, peer: Peer) -> None:
        import boto3
        from botocore.config import Config

        self.peer = peer
        if isinstance(peer, S3):
            bucket = Bucket(peer)
            self.name, self.access, self.secret, self.client = bucket.name, bucket.access, bucket.secret, bucket.client
            return
        assert isinstance(peer, Gateway | Minio)
        self.name, self.access, self.secret = unique("bucket"), peer.access, peer.secret
        self.client = boto3.client(
            "s3",
            endpoint_url=peer.url,
            region_name="us-east-1",
            aws_access_key_id=self.access,
            aws_secret_access_key=self.secret,
            config=Config(s3={"addressing_style": "path"}),
        )
        self.client.create_bucket(Bucket=self.name)

    def objects(self) -> dict[str, bytes]:
        names = [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]
        return {name: self.client.get_object(Bucket=self.name, Key=name)["Body"].read() for name in names}

    def sink(self, **options: object) -> S3Sink:
        given = {"url": self.peer.url, "bucket": self.name, "access_key": self.access, "secret_key": self.secret}  # type: ignore[attr-defined]
        return S3Sink(**{"compression": "none", **given, **options})


@pytest.fixture(scope="module", params=SERVERS)
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with running(SERVERS[request.param]) as one:
        yield one


@pytest.fixture
def served(peer: Peer) -> Iterator[Served]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = Served(peer)
        try:
            yield one
        finally:
            one.client.close()


@pytest.mark.parametrize("style", ["path", "host"])
async def test_a_bucket_in_the_path_and_in_the_name_of_the_host(served: Served, tmp_path: Path, style: str) -> None:
    """Names below *.localhost are of this machine: so `bucket.localhost` needs nobody who knows it."""
    made = block('{"n": 1}', '{"n": 2}', columns=True)
    url = served.peer.url.replace("127.0.0.1", "localhost")  # type: ignore[attr-defined]
    prefix = "a b+ü&=?%/(x)'~*/"
    await deliver(served.sink(url=url, path_style=style == "path", prefix=prefix), tmp_path, made, times=2)
    found = await asyncio.to_thread(served.objects)
    (name,) = found
    assert name.startswith(prefix)
    assert [json.loads(line)["id"] for line in found[name].splitlines()] == made.ids()


async def test_an_object_of_many_megabytes(served: Served, tmp_path: Path) -> None:
    """One request each, however large the batch is: what comes again after a crash replaces it as a whole."""
    line = json.dumps({"message": "x" * 1_000_000})
    made = block(*[line] * 48)
    await deliver(served.sink(timeout=60.0), tmp_path, made)
    (data,) = (await asyncio.to_thread(served.objects)).values()
    assert len(data) > 48_000_000
    assert [json.loads(one)["id"] for one in data.splitlines()] == made.ids()


async def test_who_signs_wrongly_is_told_so_and_tried_again(served: Served, tmp_path: Path) -> None:
    made = block("one")
    for wrong in ({"secret_key": "x" * 40}, {"access_key": "nobody"}, {"region": "mars-1"}):
        if "region" in wrong and not isinstance(served.peer, Gateway):
            continue  # they do not look at that
        with pytest.raises(TransientError, match=r"answered 40[034]"):
            await deliver(served.sink(**wrong), tmp_path, made)
    assert await asyncio.to_thread(served.objects) == {}
    assert not (tmp_path / "dead").exists()


async def test_a_bucket_that_is_not_there_yet_is_tried_again(served: Served, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="404"):
        await deliver(served.sink(bucket=unique("none")), tmp_path, block("one"))
    assert not (tmp_path / "dead").exists()


@pytest.mark.parametrize("said", ["EntityTooLarge", "ExpiredToken", ""])
async def test_what_can_be_mended_is_no_dead_letter(tmp_path: Path, said: str) -> None:
    """Temporary credentials run out with 400; an object that is too large is made into smaller ones."""
    taken: list[bytes] = []

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        if said == "EntityTooLarge" and request.body.count(b"\n") == 1:
            taken.append(request.body)
            return 200, {}, b""
        return 400 if said else 413, {}, f"<Error><Code>{said}</Code></Error>".encode()

    async with receiving() as receiver:
        receiver.answer = answer
        sink = S3Sink(url=receiver.url, bucket="abc", access_key="a", secret_key="b", compression="none")
        made = block("one", "two", "three", "four")
        if said == "ExpiredToken":
            with pytest.raises(TransientError, match="ExpiredToken"):
                await deliver(sink, tmp_path, made)
        else:
            await deliver(sink, tmp_path, made)
    if said == "EntityTooLarge":
        assert [json.loads(one)["id"] for one in taken] == made.ids()
    letters = tmp_path / "dead" / "out.ndjson"
    assert letters.exists() == (not said)
