"""The task that Celery carries out in the benchmark of runs. BENCH_REDIS: the address of its broker."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from redis import Redis

app = Celery("bench", broker=os.environ.get("BENCH_REDIS", ""))
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


def connection() -> Any:
    return Redis.from_url(os.environ["BENCH_REDIS"])


@app.task
def work() -> None:
    at_s = time.perf_counter()
    redis = connection()
    redis.set("at", at_s)
    redis.incr("done")
    redis.close()
