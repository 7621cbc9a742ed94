-- One row for each schedule that was ever configured, until its history is forgotten.
-- cursor_s: every fire up to here was decided. timing: digest of all that says when it fires.
CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    timing TEXT NOT NULL,
    cursor_s DOUBLE PRECISION NOT NULL,
    paused BIGINT NOT NULL DEFAULT 0,
    paused_by TEXT NOT NULL DEFAULT '',
    paused_reason TEXT NOT NULL DEFAULT '',
    paused_s DOUBLE PRECISION,
    missed BIGINT NOT NULL DEFAULT 0,
    refused BIGINT NOT NULL DEFAULT 0,
    fired BIGINT NOT NULL DEFAULT 0,
    removed_s DOUBLE PRECISION
);

-- What became of fires. fire: the fire time as text, which is also its run's key; or `manual-…`.
CREATE TABLE schedule_fires (
    schedule TEXT NOT NULL,
    fire TEXT NOT NULL,
    fire_s DOUBLE PRECISION NOT NULL,
    claimed_s DOUBLE PRECISION NOT NULL,
    state TEXT NOT NULL,
    run_id TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (schedule, fire)
);

CREATE INDEX schedule_fires_by_time ON schedule_fires (schedule, claimed_s);
CREATE INDEX schedule_fires_by_age ON schedule_fires (claimed_s);
