"""The `s3` sink: objects of many records in S3, or what is compatible with it."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

from dogwatch.core.units import Secret
from dogwatch.errors import TransientError
from dogwatch.logs.block import Block
from dogwatch.logs.checkpoint import SinkState
from dogwatch.logs.fields import times_ns
from dogwatch.logs.records import pieces
from dogwatch.logs.sink import Tools, Worker
from dogwatch.logs.sinks.delivery import Delivery, HttpOptions, Refused, TooLarge, in_parts
from dogwatch.logs.sinks.file import packer
from dogwatch.logs.sinks.signature import Credentials, path_of, signed
from dogwatch.logs.wire import Pieces

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SUFFIX = {"zstd": ".zst", "gzip": ".gz", "none": ""}
_NS = 1_000_000_000


class S3Sink(HttpOptions, frozen=True, kw_only=True):
    """Puts JSON lines with ids into objects, sorted by the hour of their `timestamp`, or of their arrival.

    An object's name has a checksum of its records' ids: a batch that is sent again replaces itself. Batches are 8 MiB
    or what came in a minute unless `batch` says else.

    url: of the endpoint, `https://s3.eu-central-1.amazonaws.com`. bucket: which must exist. prefix: of the names. by:
    how names go on, as strftime has it. region: that signatures name. access_key, secret_key, session_token: who signs;
    by default AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment. path_style: the bucket
    in the path and not in the host's name. compression: of objects; default zstd. headers, timeout, ca_file, verify: of
    the connection.
    """

    kind: ClassVar[str] = "s3"
    batch_bytes: ClassVar[int] = 8 * 1024 * 1024
    batch_wait_s: ClassVar[float] = 60.0

    bucket: str
    prefix: str = "logs/"
    by: str = "%Y/%m/%d/%H/"
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: Secret = ""
    session_token: Secret = ""
    path_style: bool = True
    compression: Literal["none", "gzip", "zstd"] = "zstd"

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        yield from self.url_faults()
        if not _BUCKET.fullmatch(self.bucket):
            yield ("bucket",), "is not a bucket's name", ""
        if bool(self.access_key) != bool(self.secret_key):
            yield ("secret_key" if self.access_key else "access_key",), "is missing", "give both or none"

    def takes_json(self) -> bool:
        return True

    async def open(self, tools: Tools, state: SinkState | None) -> Worker:  # noqa: ARG002
        return _S3(self, tools, time.time_ns)


class _S3:
    def __init__(self, options: S3Sink, tools: Tools, now_ns: Callable[[], int]) -> None:
        self._options = options
        self._tools = tools
        self._now_ns = now_ns
        self._delivery = Delivery(options, tools, "application/x-ndjson")
        self._pack = packer(options.compression, 3)
        self._host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
        scheme, _, host = options.url.rstrip("/").partition("://")
        place = f"{host}/{options.bucket}" if options.path_style else f"{options.bucket}.{host}"
        self._base = f"{scheme}://{place}/"

    async def write(self, blocks: Sequence[Block]) -> None:
        await in_parts(blocks, self._put, self._tools)

    async def _put(self, blocks: Sequence[Block]) -> None:
        for key, body in await self._tools.thread(lambda: self._objects(blocks)):
            url = self._base + path_of(key)
            plain = {"content-type": "application/x-ndjson", **dict(self._options.headers)}
            at = datetime.fromtimestamp(self._now_ns() / _NS, UTC)
            headers = signed("PUT", url, plain, body, self._credentials(), self._options.region, at)
            try:
                await self._delivery.send("PUT", url, list(headers.items()), body)
            except TooLarge:
                raise
            except Refused as error:
                if "<Code>EntityTooLarge<" in error.said:
                    raise TooLarge(str(error)) from None
                # What is in an object is nobody's business: a wrong region, a token that has run out, a clock that is
                # wrong can be mended.
                raise TransientError(str(error), retry_after_s=error.later_s) from None

    def _objects(self, blocks: Sequence[Block]) -> list[tuple[str, bytes]]:
        now_ns = self._now_ns()
        groups: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for block in blocks:
            some = pieces(block)
            whole = some.documents()
            for folder, at in self._folders(some, now_ns).items():
                ids, documents = groups.setdefault(folder, ([], []))
                ids += map(some.ids.__getitem__, at)
                documents += map(whole.__getitem__, at)
        found = []
        for folder, (ids, documents) in groups.items():
            name = hashlib.sha256(b"\n".join(ids)).hexdigest()[:24]
            name = f"{self._options.prefix}{folder}{self._host}-{name}.ndjson{_SUFFIX[self._options.compression]}"
            found.append((name, self._pack(b"\n".join(documents) + b"\n")))
        return found

    def _folders(self, some: Pieces, now_ns: int) -> dict[str, Sequence[int]]:
        """Return which records go to each folder, by their places."""
        if not some.may_have((b"timestamp",)):
            return {self._folder(now_ns // _NS): range(len(some.ids))}
        seconds = [at_ns // _NS for at_ns in times_ns(some.columns(("timestamp",))[0], now_ns)]
        folders = {second: self._folder(second) for second in set(seconds)}
        found: dict[str, list[int]] = {}
        for at, second in enumerate(seconds):
            found.setdefault(folders[second], []).append(at)
        return dict(found)

    def _folder(self, second: int) -> str:
        return datetime.fromtimestamp(second, UTC).strftime(self._options.by)

    def _credentials(self) -> Credentials:
        options = self._options
        if options.access_key:
            return Credentials(
                access_key=options.access_key, secret_key=options.secret_key, session=options.session_token
            )
        environ = os.environ
        key, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not key or not secret:
            raise TransientError("has no access key, in its options or in AWS_ACCESS_KEY_ID")
        return Credentials(access_key=key, secret_key=secret, session=environ.get("AWS_SESSION_TOKEN", ""))

    def state(self) -> SinkState | None:
        return None

    def sync(self) -> None:
        """An answer is all there is."""

    async def close(self) -> None:
        """The client belongs to the tools."""
