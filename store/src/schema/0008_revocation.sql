-- Certificates that were revoked. `reason` is the word that lists carry; why in words stands in the audit row.
CREATE TABLE revocations (
    sequence  INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant    TEXT NOT NULL,
    authority TEXT NOT NULL,
    serial    BLOB NOT NULL,
    at        INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    not_after INTEGER NOT NULL,
    UNIQUE (authority, serial)
) STRICT;
CREATE INDEX revocations_by_end ON revocations (not_after);

-- Revocation lists. A row is written before anything is signed, so that no number is ever used twice; `list` is what
-- was signed, as long as it is kept.
CREATE TABLE revocation_lists (
    authority TEXT NOT NULL,
    number    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    list      BLOB,
    PRIMARY KEY (authority, number)
) STRICT, WITHOUT ROWID;
