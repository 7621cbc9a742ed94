-- What each place said last. body: by target, as JSON. received_s: by this database's clock.
CREATE TABLE location_reports (
    location TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    received_s DOUBLE PRECISION NOT NULL
);
