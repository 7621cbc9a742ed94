-- Windows of maintenance made by API or command line. body: the specification as JSON. begun_s: when it was made;
-- before, it was not on. ended_s: when somebody ended it; what it covered until then still counts as planned.
CREATE TABLE maintenance_windows (
    window_id TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    made_by TEXT NOT NULL,
    begun_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION,
    ended_by TEXT NOT NULL
);

CREATE INDEX maintenance_windows_by_end ON maintenance_windows (ended_s);
