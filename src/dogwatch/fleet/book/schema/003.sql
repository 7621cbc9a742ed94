-- Files on their way to or from hosts, in pieces, for a day. file_id: chance for what was sent here; run/step/host for what
-- was fetched.
CREATE TABLE fleet_files (
    file_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    data BYTEA NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (file_id, place)
);
CREATE INDEX fleet_files_created ON fleet_files (created_s);
