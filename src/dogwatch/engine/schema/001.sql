-- What a job was when a run of it was started, as JSON without secrets; it stays in force for that run.
CREATE TABLE definitions (
    digest TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    body TEXT NOT NULL,
    seen_s DOUBLE PRECISION NOT NULL
);

-- One row for each run.
-- ready: a worker may claim it now. wake_s: when it becomes ready by itself. blocked_on: the gate it waits at.
-- placement: the labels that its worker must have, as canonical JSON; '' for any worker.
-- worker: who owns it, '' for nobody; fence grows with every change of owner.
-- begun: it has rows in steps. stirred: an order or a signal came since it was claimed.
-- sealed: the values of secret parameters, encrypted. start_key: the idempotency key.
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    definition TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    waiting_for TEXT NOT NULL DEFAULT '',
    parameters TEXT NOT NULL,
    sealed BYTEA,
    labels TEXT NOT NULL,
    actor TEXT NOT NULL,
    trigger_kind TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    trigger_data TEXT NOT NULL,
    start_key TEXT,
    priority BIGINT NOT NULL,
    parent TEXT,
    parent_step TEXT,
    rerun_of TEXT NOT NULL DEFAULT '',
    attempt BIGINT NOT NULL DEFAULT 1,
    placement TEXT NOT NULL DEFAULT '',
    gated BIGINT NOT NULL DEFAULT 0,
    ready BIGINT NOT NULL DEFAULT 0,
    blocked_on TEXT NOT NULL DEFAULT '',
    wake_s DOUBLE PRECISION,
    worker TEXT NOT NULL DEFAULT '',
    fence BIGINT NOT NULL DEFAULT 0,
    claimed_s DOUBLE PRECISION,
    begun BIGINT NOT NULL DEFAULT 0,
    stirred BIGINT NOT NULL DEFAULT 0,
    cancel TEXT NOT NULL DEFAULT '',
    paused BIGINT NOT NULL DEFAULT 0,
    paused_s DOUBLE PRECISION,
    timeout_s DOUBLE PRECISION,
    keep_s DOUBLE PRECISION,
    created_s DOUBLE PRECISION NOT NULL,
    due_s DOUBLE PRECISION,
    queued_s DOUBLE PRECISION,
    started_s DOUBLE PRECISION,
    ended_s DOUBLE PRECISION,
    deadline_s DOUBLE PRECISION,
    expires_s DOUBLE PRECISION
);
CREATE UNIQUE INDEX runs_key ON runs (job, start_key) WHERE start_key IS NOT NULL;
CREATE INDEX runs_created ON runs (created_s, run_id);
CREATE INDEX runs_job ON runs (job, created_s);
CREATE INDEX runs_ready ON runs (placement, priority DESC, queued_s, run_id) WHERE ready = 1;
CREATE INDEX runs_wake ON runs (wake_s) WHERE wake_s IS NOT NULL;
CREATE INDEX runs_blocked ON runs (blocked_on, priority DESC, queued_s, run_id) WHERE blocked_on <> '';
CREATE INDEX runs_worker ON runs (worker) WHERE worker <> '';
CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_live ON runs (job, state) WHERE ended_s IS NULL;
CREATE INDEX runs_failed ON runs (created_s) WHERE state = 'failed';
CREATE INDEX runs_ended ON runs (ended_s) WHERE ended_s IS NOT NULL;
CREATE INDEX runs_expires ON runs (expires_s) WHERE expires_s IS NOT NULL;
CREATE INDEX runs_definition ON runs (definition);

-- One row for each step that is not merely pending. body: the step as JSON. signal: what woke it, not yet taken.
CREATE TABLE steps (
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    wake_s DOUBLE PRECISION,
    signal TEXT,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);

-- Concurrency keys, locks and rate limits. used: how many runs hold it. window_s: of a rate limit. open_s: when a rate
-- limit lets the next one through, while runs wait at it.
CREATE TABLE gates (
    name TEXT PRIMARY KEY,
    capacity BIGINT NOT NULL,
    used BIGINT NOT NULL DEFAULT 0,
    window_s DOUBLE PRECISION,
    open_s DOUBLE PRECISION
);
CREATE INDEX gates_open ON gates (open_s) WHERE open_s IS NOT NULL;

-- The gates that a run has to pass, from its start to its end. held: it passed.
CREATE TABLE run_gates (
    gate TEXT NOT NULL,
    run_id TEXT NOT NULL,
    capacity BIGINT NOT NULL,
    window_s DOUBLE PRECISION,
    held BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (gate, run_id)
);
CREATE INDEX run_gates_run ON run_gates (run_id);

-- The starts within the window of each rate limit.
CREATE TABLE gate_starts (
    gate TEXT NOT NULL,
    time_s DOUBLE PRECISION NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (gate, time_s, run_id)
);

-- What steps asked people, and what they answered. allowed: who may decide, as JSON.
CREATE TABLE approvals (
    run_id TEXT NOT NULL,
    step TEXT NOT NULL,
    asked_s DOUBLE PRECISION NOT NULL,
    expires_s DOUBLE PRECISION,
    allowed TEXT NOT NULL,
    decided_s DOUBLE PRECISION,
    approved BIGINT,
    actor TEXT,
    comment TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, step)
);

-- Processes that execute runs. beats: grows with each heartbeat. opening: of a database that one process has alone.
CREATE TABLE workers (
    worker_id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid BIGINT NOT NULL,
    labels TEXT NOT NULL,
    slots BIGINT NOT NULL,
    ttl_s DOUBLE PRECISION NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    opening TEXT NOT NULL,
    beats BIGINT NOT NULL DEFAULT 0,
    started_s DOUBLE PRECISION NOT NULL,
    heartbeat_s DOUBLE PRECISION NOT NULL
);

-- What is kept of a run's output. kept_bytes: of text. cut_bytes: what was dropped between head and tail. fence and
-- given: of the newest append, so that one that is repeated is known.
CREATE TABLE outputs (
    run_id TEXT PRIMARY KEY,
    next_sequence BIGINT NOT NULL,
    kept_bytes BIGINT NOT NULL,
    head_bytes BIGINT NOT NULL,
    cut_bytes BIGINT NOT NULL,
    cut_sequence BIGINT,
    fence BIGINT NOT NULL,
    given BIGINT NOT NULL
);

-- Pieces of output, compressed. head: one of those that are kept whatever follows.
CREATE TABLE output (
    run_id TEXT NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    text_bytes BIGINT NOT NULL,
    head BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (run_id, first_sequence)
);
