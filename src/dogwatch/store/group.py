"""Group commit: the transactions that wait are run one after another and committed as one.

A group is run hopefully at first: without savepoints, which cost a server two more answers for each transaction. Where
one of them fails, the group is run again with savepoints, so that each undoes only its own; and where the group loses
against another connection, each is run alone. So work may run up to three times, as database.Database says.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from dogwatch.errors import PermanentError, TransientError
from dogwatch.store.database import Tx

T = TypeVar("T")
# More would make the first of them wait too long for the last; and what a server has locked, others wait for.
MOST_TOGETHER = 256
MOST_S = 0.05
# After a group with a failure so many are run with savepoints from the beginning.
_CAREFUL = 8


class News:
    """What a transaction tells once it is on disk. calls: made in the event loop. topics: what was notified."""

    __slots__ = ("calls", "topics")

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.calls: list[Callable[[], None]] = []

    def mark(self) -> tuple[int, int]:
        return len(self.topics), len(self.calls)

    def undo(self, mark: tuple[int, int]) -> None:
        """Forget what was added since the mark."""
        del self.topics[mark[0] :]
        del self.calls[mark[1] :]


class GroupTx:
    """What every Tx keeps for the functions of its group, and for those who hear of its commit."""

    def __init__(self) -> None:
        self.memory: dict[str, object] = {}
        self.news = News()

    def anew(self) -> None:
        """Another transaction begins."""
        self.memory.clear()
        self.news = News()

    def undone(self, mark: tuple[int, int]) -> None:
        """A savepoint is undone: with it the locks since, and the news."""
        self.memory.clear()
        self.news.undo(mark)

    def notify(self, topic: str) -> None:
        self.news.topics.append(topic)

    def after(self, call: Callable[[], None]) -> None:
        self.news.calls.append(call)


class Session(Protocol):
    """A connection, owned by the thread that made it. What it raises has been translated to our errors."""

    def begin(self) -> Tx: ...

    @property
    def hurried(self) -> bool:
        """Whether a function wants the transaction committed."""
        ...

    def savepoint(self) -> None: ...

    def rollback_to(self) -> None: ...

    def release(self) -> None: ...

    def commit(self) -> News: ...

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
        # So many transactions are run with savepoints, and so many alone.
        self._careful = self._alone = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        session: Session | None = None
        last = False
        while not last:
            jobs, last = self._take()
            while jobs:
                fresh = session is None
                try:
                    session = session or self._connect()
                    done, news = self._some(session, jobs)
                    self._tell(jobs[:done], news, "")
                    jobs = jobs[done:]
                except BaseException as caught:  # noqa: BLE001 - handed to those who wait
                    if session is not None:
                        session.close()
                        session = None
                    if isinstance(caught, Broken) and not caught.in_doubt and not fresh:
                        continue  # it broke while it was idle, or before a commit: nothing of these is on disk
                    self._fail(jobs, caught.error if isinstance(caught, Broken | _Failed) else caught)
                    jobs = []
        if session is not None:
            session.close()
        self._call(self.ended.set_result, None)

    def _fail(self, jobs: list[_Job[Any]], error: BaseException) -> None:
        for job in jobs:
            job.error = error
        self._tell(jobs, News(), str(error))

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

    def _some(self, session: Session, jobs: list[_Job[Any]]) -> tuple[int, News]:
        """Commit some of them, the first at least; where the group cannot be committed, the first alone."""
        if not self._alone:
            try:
                return self._commit(session, jobs)
            except Repeatable:
                self._alone = len(jobs)
        self._alone -= 1
        try:
            return self._commit(session, jobs[:1])
        except Repeatable as error:
            jobs[0].error = error.error
            return 1, News()

    def _commit(self, session: Session, jobs: list[_Job[Any]]) -> tuple[int, News]:
        """Return how many were run in the time that a group has, and what their commit tells."""
        if self._careful == 0 or len(jobs) == 1:
            try:
                return self._transaction(session, jobs, self._hopefully)
            except _Failed as failed:
                if len(jobs) == 1 and not isinstance(failed.error, TransientError):
                    jobs[0].error = failed.error
                    return 1, News()
                self._careful = _CAREFUL
        else:
            self._careful -= 1
        return self._transaction(session, jobs, self._carefully)

    def _transaction(
        self, session: Session, jobs: list[_Job[Any]], run: Callable[[Session, Tx, list[_Job[Any]]], int]
    ) -> tuple[int, News]:
        tx = session.begin()
        try:
            done = run(session, tx, jobs)
            news = self._ended(session)
        except BaseException:
            session.rollback()
            raise
        self.commits += 1
        return done, news

    def _ended(self, session: Session) -> News:
        """Raises: _Failed also for a query that was sent and not waited for."""
        try:
            return session.commit()
        except Broken as error:
            error.in_doubt = True
            raise
        except Repeatable:
            raise
        except Exception as error:
            raise _Failed(error) from error

    def _hopefully(self, session: Session, tx: Tx, jobs: list[_Job[Any]]) -> int:
        """Raises: _Failed."""
        until_s = time.monotonic() + MOST_S
        for number, job in enumerate(jobs, 1):
            try:
                job.result = job.work(tx)
            except (Repeatable, Broken):
                raise
            except BaseException as error:
                raise _Failed(error) from error
            if session.hurried or time.monotonic() > until_s:
                return number
        return len(jobs)

    def _carefully(self, session: Session, tx: Tx, jobs: list[_Job[Any]]) -> int:
        until_s = time.monotonic() + MOST_S
        for number, job in enumerate(jobs, 1):
            session.savepoint()
            try:
                job.result = job.work(tx)
                session.release()
                job.error = None
            except (Repeatable, Broken):
                raise
            except BaseException as error:  # noqa: BLE001 - the caller's own
                job.error = error
                session.rollback_to()
            if session.hurried or time.monotonic() > until_s:
                return number
        return len(jobs)

    def _tell(self, jobs: list[_Job[Any]], news: News, text: str) -> None:
        def tell() -> None:
            self._trouble(text)
            for call in news.calls:
                # Not here: one that fails must keep nobody waiting. Those who wait come after it all the same.
                self._loop.call_soon(call)
            for job in jobs:
                if job.waiter.done():
                    continue
                if job.error is not None:
                    job.waiter.set_exception(job.error)
                else:
                    job.waiter.set_result(job.result)
            if news.topics:
                self._told(news.topics)

        self._call(tell)

    def _call(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop was closed without closing the database: there is nobody left to tell

    async def join(self) -> None:
        await self.ended
        self._thread.join()


class _Failed(Exception):
    """A transaction of a group failed by itself, or their commit. error: what the caller is told."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Repeatable(Exception):
    """The transaction lost to another (deadlock, serialization, busy): the same one may win next time.

    error: what its caller is told when it does not.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Broken(Exception):
    """The connection is of no further use. error: what the callers are told.

    in_doubt: a commit may have taken place.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_doubt = False


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
