-- Planned changes. kind: plan, or drift (only looked). state: planning, ready, failed (no plan came of it), rejected,
-- applying, applied, refused, partly, stopped, rolled back. run_id: of the run that made it. document: the plan; NULL until
-- it is made. digest: of the document. bundle: a playbook that was sent along with its files. orders: JSON. approval: 1
-- where somebody else must agree; approved_by: JSON, '' for nobody. apply_id: of the last apply that may have changed
-- something; unfinished: 1 where it left something to do. apply_run: the run that applies or applied it.
CREATE TABLE fleet_plans (
    plan_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    playbook TEXT NOT NULL,
    targets TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    run_id TEXT NOT NULL,
    orders TEXT NOT NULL,
    bundle BYTEA,
    document BYTEA,
    digest TEXT NOT NULL,
    approval BIGINT NOT NULL,
    approved_by TEXT NOT NULL,
    comment TEXT NOT NULL,
    apply_id TEXT NOT NULL,
    unfinished BIGINT NOT NULL,
    apply_run TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    made_s DOUBLE PRECISION,
    ended_s DOUBLE PRECISION
);
CREATE INDEX fleet_plans_playbook ON fleet_plans (playbook, kind, created_s);
-- One row for each host of a plan. state: changes, same, problems, unread. changes: steps. shown: digest of what people
-- are told. since_s: of drift, since when it has been another. result: what became of it when the plan was applied.
CREATE TABLE fleet_plan_hosts (
    plan_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    host TEXT NOT NULL,
    labels TEXT NOT NULL,
    state TEXT NOT NULL,
    changes BIGINT NOT NULL,
    shown TEXT NOT NULL,
    since_s DOUBLE PRECISION,
    result TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (plan_id, place)
);
-- What people are told of hosts, equal ones once: JSON.
CREATE TABLE fleet_plan_texts (
    plan_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    shown TEXT NOT NULL,
    PRIMARY KEY (plan_id, digest)
);
