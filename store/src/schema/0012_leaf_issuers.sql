-- Issuers beside the built-in one whose roots stand in the bundle of workloads: prepared, active or retired.
CREATE TABLE leaf_issuers (
    name  TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What they were asked for: a row is written before they are. What they signed becomes a row of `certificates`, because
-- only then its serial number is known. `finished` without a known outcome: no answer came.
CREATE TABLE leaf_requests (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL,
    issuer     TEXT NOT NULL,
    role       TEXT NOT NULL,
    authority  TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    id         TEXT NOT NULL,
    node       TEXT,
    purpose    TEXT NOT NULL,
    spki       BLOB NOT NULL UNIQUE,
    not_after  INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    finished   INTEGER
) STRICT;
CREATE INDEX leaf_requests_unknown ON leaf_requests (authority, not_after) WHERE state = 'unknown';
