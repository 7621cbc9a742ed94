-- Names. sealed_seq: the last journal number whose row is in a block and in the roll-ups; what is above it is not.
CREATE TABLE target (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, sealed_seq INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    name TEXT NOT NULL,
    sealed_seq INTEGER NOT NULL DEFAULT 0,
    UNIQUE (host, name)
) STRICT;

-- One row per commit: results and samples of all owners in order of arrival, columns packed (columns.py).
CREATE TABLE result_journal (first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE sample_journal (first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, data BLOB NOT NULL) STRICT;

-- Sealed runs of rows of one owner (target or series), in order of sealing.
CREATE TABLE result_block (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX result_block_order ON result_block (owner_id);
CREATE INDEX result_block_time ON result_block (owner_id, end_ms, start_ms);
CREATE TABLE sample_block (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX sample_block_time ON sample_block (owner_id, end_ms, start_ms);

-- Roll-ups. Durations in microseconds over successful results; sketch: histogram.py; status: the worst.
CREATE TABLE result_5m (
    owner_id INTEGER NOT NULL,
    bucket_s INTEGER NOT NULL,
    count INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    sum_us INTEGER NOT NULL,
    min_us INTEGER NOT NULL,
    max_us INTEGER NOT NULL,
    resolve_us INTEGER NOT NULL,
    connect_us INTEGER NOT NULL,
    tls_us INTEGER NOT NULL,
    first_byte_us INTEGER NOT NULL,
    transfer_us INTEGER NOT NULL,
    status INTEGER NOT NULL,
    sketch BLOB NOT NULL,
    PRIMARY KEY (owner_id, bucket_s)
) STRICT, WITHOUT ROWID;
CREATE TABLE result_1h (
    owner_id INTEGER NOT NULL,
    bucket_s INTEGER NOT NULL,
    count INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    sum_us INTEGER NOT NULL,
    min_us INTEGER NOT NULL,
    max_us INTEGER NOT NULL,
    resolve_us INTEGER NOT NULL,
    connect_us INTEGER NOT NULL,
    tls_us INTEGER NOT NULL,
    first_byte_us INTEGER NOT NULL,
    transfer_us INTEGER NOT NULL,
    status INTEGER NOT NULL,
    sketch BLOB NOT NULL,
    PRIMARY KEY (owner_id, bucket_s)
) STRICT, WITHOUT ROWID;
CREATE TABLE sample_5m (
    owner_id INTEGER NOT NULL,
    bucket_s INTEGER NOT NULL,
    count INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (owner_id, bucket_s)
) STRICT, WITHOUT ROWID;
CREATE TABLE sample_1h (
    owner_id INTEGER NOT NULL,
    bucket_s INTEGER NOT NULL,
    count INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    last_ms INTEGER NOT NULL,
    PRIMARY KEY (owner_id, bucket_s)
) STRICT, WITHOUT ROWID;

CREATE TABLE transitions (
    id INTEGER PRIMARY KEY,
    target TEXT NOT NULL,
    time_s REAL NOT NULL,
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_time ON transitions (target, time_s, id);
CREATE TABLE state (target TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE failures (id INTEGER PRIMARY KEY, target TEXT NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX failures_target ON failures (target, id);
CREATE TABLE pings (id INTEGER PRIMARY KEY, target TEXT NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX pings_target ON pings (target, id);
CREATE TABLE document (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;

-- Stretches of time in which Dogwatch ran. Time outside of them is unknown.
CREATE TABLE alive (id INTEGER PRIMARY KEY, since_s REAL NOT NULL, until_s REAL NOT NULL) STRICT;

-- Rows and bytes of each bounded table, kept in the same transaction as the table itself.
CREATE TABLE ledger (name TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
