"""The shelf that files lie on between a client, a daemon and the hosts: in pieces, bounded, for a day."""

from __future__ import annotations

import secrets

from dogwatch.errors import Conflict, NotFound, UsageError
from dogwatch.store.database import Database, Tx

PIECE_BYTES = 512 * 1024
MOST_PIECES = 512
# Of all files together: 2 GiB.
MOST_OF_ALL = 4096
KEEP_S = 86400.0


class FileShelf:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, file_id: str, place: int, data: bytes) -> str:
        """Add a piece to a file; return its id. file_id: "" for a new one.

        Raises: UsageError where it is too large, NotFound where the piece before it is not here, Conflict where too
        much lies here.
        """
        if len(data) > PIECE_BYTES or place >= MOST_PIECES:
            raise UsageError(f"a file may have {MOST_PIECES * PIECE_BYTES // 1024**2} MiB")
        if bool(file_id) != bool(place):
            raise UsageError("the first piece of a file has place 0 and no id")
        name = file_id or secrets.token_hex(16)
        await self._database.write(lambda tx: _put(tx, name, place, data, begun=bool(file_id)))
        return name

    async def keep(self, file_id: str, pieces: list[bytes]) -> None:
        """Write a whole file; one of that id is replaced. Raises: Conflict where too much lies here."""

        def begin(tx: Tx) -> None:
            tx.run("DELETE FROM fleet_files WHERE file_id = :file_id", file_id=file_id)

        await self._database.write(begin)
        # One after the other: a large file must not hold up what others commit.
        for place, data in enumerate(pieces or [b""]):
            await self._database.write(lambda tx, at=place, one=data: _put(tx, file_id, at, one, begun=at > 0))  # type: ignore[misc]

    async def piece(self, file_id: str, place: int) -> tuple[bytes, bool]:
        """Return a piece, and whether there are more. Raises: NotFound."""

        def look(tx: Tx) -> tuple[bytes, bool]:
            rows = tx.rows(
                "SELECT data FROM fleet_files WHERE file_id = :file_id AND place >= :place ORDER BY place LIMIT 2",
                file_id=file_id,
                place=place,
            )
            if not rows:
                raise NotFound("there is no such file here", hint="files are kept for a day")
            return bytes(rows[0][0] or b""), len(rows) > 1  # type: ignore[arg-type]

        return await self._database.read(look)


def _put(tx: Tx, file_id: str, place: int, data: bytes, *, begun: bool) -> None:
    if begun and not tx.rows(
        "SELECT 1 FROM fleet_files WHERE file_id = :file_id AND place = :place", file_id=file_id, place=place - 1
    ):
        raise NotFound("the piece before this one is not here", hint="files are kept for a day")
    if not begun:
        tx.run("DELETE FROM fleet_files WHERE created_s < :old", old=tx.now_s - KEEP_S)
    row = tx.one("SELECT count(*) FROM fleet_files")
    if row is not None and int(row[0] or 0) >= MOST_OF_ALL:
        raise Conflict("too many files lie here already", hint="they are kept for a day")
    tx.run(
        "INSERT INTO fleet_files (file_id, place, data, created_s) VALUES (:file_id, :place, :data, :now) "
        "ON CONFLICT (file_id, place) DO UPDATE SET data = excluded.data",
        file_id=file_id,
        place=place,
        data=data,
        now=tx.now_s,
    )
