"""Group commit: the transactions that wait are run one after another, each in a savepoint, and committed as one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from dogwatch.errors import PermanentError
from dogwatch.store.database import Tx

T = TypeVar("T")
# More would make the first of them wait too long for the last.
MOST_TOGETHER = 256


class Session(Protocol):
    """A connection, owned by the thread that made it. What it raises has been translated to our errors."""

    def begin(self) -> Tx: ...

    def savepoint(self) -> None: ...

    def rollback_to(self) -> None: ...

    def release(self) -> None: ...

    def commit(self) -> list[str]:
        """Return the topics that were notified and that nobody else will tell this process of."""
        ...

    def rollback(self) -> None:
        """Leave the transaction, whatever its state; it cannot fail."""
        ...

    def close(self) -> None: ...


class _Job(Generic[T]):
    __slots__ = ("error", "result", "waiter", "work")

    def __init__(self, work: Callable[[Tx], T], waiter: asyncio.Future[T]) -> None:
        self.work, self.waiter = work, waiter
        self.result: Any = None
        self.error: BaseException | None = None


class Lane:
    """A thread with a session, and the transactions that wait for it.

    share: a queue that several lanes take from.
    told: is called in the event loop with the topics of a commit. trouble: is called with a sentence, or "".
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Session],
        share: queue.SimpleQueue[_Job[Any] | None],
        *,
        told: Callable[[list[str]], None] = lambda _topics: None,
        trouble: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect, self._jobs, self._told, self._trouble = connect, share, told, trouble
        self.ended = self._loop.create_future()
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        session: Session | None = None
        last = False
        while not last:
            jobs, last = self._take()
            if not jobs:
                continue
            topics: list[str] = []
            try:
                session = session or self._connect()
                topics = self._together(session, jobs)
                text = ""
            except BaseException as caught:  # noqa: BLE001 - handed to those who wait
                error = caught.error if isinstance(caught, Broken) else caught
                text = str(error)
                for job in jobs:
                    job.error = job.error or error
                if session is not None:
                    session.close()
                    session = None
            self._tell(jobs, topics, text)
        if session is not None:
            session.close()
        self._call(self.ended.set_result, None)

    def _take(self) -> tuple[list[_Job[Any]], bool]:
        jobs = []
        job = self._jobs.get()
        while job is not None:
            if not job.waiter.cancelled():
                jobs.append(job)
            if len(jobs) >= MOST_TOGETHER:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _together(self, session: Session, jobs: list[_Job[Any]]) -> list[str]:
        """Run and commit; where the group cannot be committed, each alone, so that one cannot spoil the others'."""
        try:
            return self._commit(session, jobs)
        except Repeatable:
            topics = []
            for job in jobs:
                job.error = None
                try:
                    topics += self._commit(session, [job])
                except Repeatable as error:
                    job.error = error.error
            return topics

    def _commit(self, session: Session, jobs: list[_Job[Any]]) -> list[str]:
        tx = session.begin()
        try:
            for job in jobs:
                session.savepoint()
                try:
                    job.result = job.work(tx)
                except (Repeatable, Broken):
                    raise
                except BaseException as error:  # noqa: BLE001 - the caller's own
                    job.error = error
                    session.rollback_to()
                else:
                    session.release()
            topics = session.commit()
        except BaseException:
            session.rollback()
            raise
        self.commits += 1
        return topics

    def _tell(self, jobs: list[_Job[Any]], topics: list[str], text: str) -> None:
        def tell() -> None:
            self._trouble(text)
            for job in jobs:
                if job.waiter.done():
                    continue
                if job.error is not None:
                    job.waiter.set_exception(job.error)
                else:
                    job.waiter.set_result(job.result)
            if topics:
                self._told(topics)

        self._call(tell)

    def _call(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop was closed without closing the database: there is nobody left to tell

    async def join(self) -> None:
        await self.ended
        self._thread.join()


class Repeatable(Exception):
    """The transaction lost to another (deadlock, serialization, busy): the same one may win next time.

    error: what its caller is told when it does not.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Broken(Exception):
    """The connection is of no further use. error: what the callers are told."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Lanes:
    """Some lanes over one queue; callers wait in the event loop."""

    def __init__(self, lanes: Callable[[queue.SimpleQueue[_Job[Any] | None]], list[Lane]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._lanes = lanes(self._jobs)
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    @property
    def commits(self) -> int:
        return sum(lane.commits for lane in self._lanes)

    async def run(self, work: Callable[[Tx], T]) -> T:
        if self._closed:
            raise PermanentError("the database is closed")
        waiter: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, waiter))
        return await waiter

    async def close(self) -> None:
        self._closed = True
        for _ in self._lanes:
            self._jobs.put(None)
        for lane in self._lanes:
            await lane.join()
