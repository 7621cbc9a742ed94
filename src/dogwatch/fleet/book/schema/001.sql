-- What went over the fleet: one row for a command line, or for a step of a run of the engine (run_id is that run's).
-- step: '' for a command line. state: running, succeeded, partly, failed, stopped, cancelled. orders: what is needed to go
-- on, JSON without secrets; sealed: those.
CREATE TABLE fleet_runs (
    run_id TEXT NOT NULL,
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    what TEXT NOT NULL,
    targets TEXT NOT NULL,
    orders TEXT NOT NULL,
    sealed BYTEA,
    actor TEXT NOT NULL,
    retry_of TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    hosts BIGINT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    PRIMARY KEY (run_id, step)
);
CREATE INDEX fleet_runs_created ON fleet_runs (created_s);
-- One row for each host of a run, from its beginning. place: in the order of the run. state: waiting, running, or how it
-- ended. attempt: of the run, in which it was begun; 0 for never. labels: JSON, as the inventory had them then.
CREATE TABLE fleet_results (
    run_id TEXT NOT NULL,
    step TEXT NOT NULL,
    host TEXT NOT NULL,
    place BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    exit_code BIGINT,
    signal TEXT NOT NULL,
    message TEXT NOT NULL,
    hint TEXT NOT NULL,
    stdout BYTEA NOT NULL,
    stderr BYTEA NOT NULL,
    cut BIGINT NOT NULL,
    connect_s DOUBLE PRECISION NOT NULL,
    run_s DOUBLE PRECISION NOT NULL,
    labels TEXT NOT NULL,
    begun_s DOUBLE PRECISION,
    ended_s DOUBLE PRECISION,
    PRIMARY KEY (run_id, step, place)
);
CREATE INDEX fleet_results_host ON fleet_results (host, ended_s);
