-- For how long nodes may come back with certificates that have ended. The newest one counts.
CREATE TABLE recovery_windows (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL,
    opened INTEGER NOT NULL,
    until  INTEGER NOT NULL,
    closed INTEGER,
    reach  INTEGER NOT NULL
) STRICT;

-- Who came back in which, for which key: once.
CREATE TABLE recoveries (
    window INTEGER NOT NULL REFERENCES recovery_windows (id),
    node   TEXT NOT NULL,
    id     TEXT NOT NULL,
    spki   BLOB NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (window, node)
) STRICT, WITHOUT ROWID;
