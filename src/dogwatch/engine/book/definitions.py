"""The definitions of runs on disk: written once for all runs of the same, read once by each process."""

from __future__ import annotations

import hashlib

from dogwatch.core.component import Registry
from dogwatch.engine.action import Action
from dogwatch.engine.book.encode import Decoder, encode
from dogwatch.engine.book.rows import clean
from dogwatch.engine.book.setting import first_of
from dogwatch.engine.spec import JobSpec
from dogwatch.errors import PermanentError
from dogwatch.store.database import Tx

# A definition without runs is kept for so long, and one that is used is marked so often: others rely on it being there.
ORPHANS_S = 7200.0
_MARK_S = 1800.0
_MOST = 512


class Definitions:
    """What is known of definitions. It is used in several threads: every entry is whole or not there."""

    def __init__(self, actions: Registry[Action]) -> None:
        self._decoder = Decoder(actions)
        # The job itself is kept with its digest, so that its id cannot become another's.
        self._digests: dict[int, tuple[JobSpec, str, str]] = {}
        self._specs: dict[str, JobSpec] = {}
        self._marked: dict[str, float] = {}
        # Those that this program cannot read, and whose runs it leaves to others.
        self.foreign: frozenset[str] = frozenset()

    def digest(self, spec: JobSpec) -> str:
        return self._encoded(spec)[1]

    def _encoded(self, spec: JobSpec) -> tuple[JobSpec, str, str]:
        found = self._digests.get(id(spec))
        if found is None:
            body = encode(spec)
            if len(self._digests) >= _MOST:
                self._digests.clear()
            found = self._digests[id(spec)] = (spec, hashlib.sha256(body).hexdigest()[:32], body.decode())
        return found

    def put(self, tx: Tx, spec: JobSpec) -> str:
        """Have it on disk; return its digest."""
        _, digest, body = self._encoded(spec)
        now_s = tx.now_s
        if not self.marked(digest, now_s):
            tx.run(
                "INSERT INTO definitions (digest, job, body, seen_s) VALUES (:digest, :job, :body, :now) "
                "ON CONFLICT (digest) DO UPDATE SET seen_s = excluded.seen_s",
                digest=digest,
                job=clean(spec.name),
                body=body,
                now=now_s,
            )
            tx.after(lambda: self._committed(digest, now_s))
        return digest

    def marked(self, digest: str, now_s: float) -> bool:
        """Return whether it surely is on disk, and stays there for this transaction."""
        return abs(now_s - self._marked.get(digest, float("-inf"))) < _MARK_S

    def _committed(self, digest: str, now_s: float) -> None:
        """A transaction that put it is on disk."""
        if len(self._marked) >= _MOST:
            self._marked.clear()
        self._marked[digest] = now_s

    def leave(self, digest: str) -> None:
        """Leave its runs to other workers from now on."""
        self.foreign = frozenset({*self.foreign, digest} if len(self.foreign) < _MOST else {digest})

    def get(self, tx: Tx, digest: str) -> JobSpec:
        """Raises: PermanentError where this program cannot read it."""
        spec = self._specs.get(digest)
        if spec is None:
            row = first_of(tx, "SELECT body FROM definitions WHERE digest = :digest", digest=digest)
            if row is None:
                raise PermanentError(f"the run's definition {digest} is gone")
            spec = self._decoder.decode(str(row[0]).encode())
            if len(self._specs) >= _MOST:
                self._specs.clear()
            self._specs[digest] = spec
        return spec
