-- Rows carry their tenant. Times are milliseconds since 1970, UTC.

CREATE TABLE store (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    id       BLOB NOT NULL,
    created  INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    root_key BLOB NOT NULL
) STRICT;

-- The root key, wrapped once per slot. The Argon2id columns are set for passphrase slots only.
CREATE TABLE key_slots (
    id         BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    kind       TEXT NOT NULL,
    memory_kib INTEGER,
    passes     INTEGER,
    lanes      INTEGER,
    salt       BLOB,
    wrapped    BLOB NOT NULL,
    created    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Data keys, wrapped by the root key.
CREATE TABLE data_keys (
    id      BLOB PRIMARY KEY,
    tenant  TEXT NOT NULL,
    class   TEXT NOT NULL,
    version INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (tenant, class, version)
) STRICT, WITHOUT ROWID;

-- Secrets, each sealed by a data key for exactly this row.
CREATE TABLE sealed (
    tenant  TEXT NOT NULL,
    class   TEXT NOT NULL,
    kind    TEXT NOT NULL,
    id      TEXT NOT NULL,
    version INTEGER NOT NULL,
    record  BLOB NOT NULL,
    PRIMARY KEY (tenant, class, kind, id)
) STRICT, WITHOUT ROWID;

-- The columns before `event` repeat it for searching; `event` is what is hashed.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    tenant   TEXT NOT NULL,
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    object   TEXT NOT NULL,
    event    TEXT NOT NULL,
    hash     BLOB NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_action ON audit (action, sequence);
CREATE INDEX audit_by_object ON audit (object, sequence);

-- `newest` and `effective` are numbers of revisions.
CREATE TABLE documents (
    id        BLOB PRIMARY KEY,
    tenant    TEXT NOT NULL,
    namespace TEXT NOT NULL,
    kind      TEXT NOT NULL,
    name      TEXT NOT NULL,
    live      INTEGER NOT NULL CHECK (live IN (0, 1)),
    newest    INTEGER NOT NULL,
    effective INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX live_documents ON documents (tenant, namespace, kind, name) WHERE live = 1;
CREATE INDEX documents_by_name ON documents (tenant, namespace, kind, name);

CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL,
    document BLOB NOT NULL REFERENCES documents (id),
    state    TEXT NOT NULL,
    text     TEXT NOT NULL,
    author   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX revisions_by_document ON revisions (document, revision);

CREATE TABLE bindings (
    node       TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    labels     TEXT NOT NULL,
    identities TEXT NOT NULL,
    state      TEXT NOT NULL,
    created    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `mac` is an HMAC of the secret half; the secret is nowhere.
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    mac        BLOB NOT NULL,
    node       TEXT NOT NULL,
    author     TEXT NOT NULL,
    created    INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    spent      INTEGER,
    spent_spki BLOB,
    revoked    INTEGER,
    failures   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_node ON tokens (node);

CREATE TABLE blocks (
    id     TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    at     INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE authorities (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    tenant      TEXT NOT NULL,
    place       TEXT NOT NULL,
    state       TEXT NOT NULL,
    certificate BLOB NOT NULL,
    parent      TEXT,
    created     INTEGER NOT NULL,
    activated   INTEGER,
    retired     INTEGER,
    removed     INTEGER
) STRICT;

-- The journal: a row is written before anything is signed, and gets its result afterwards.
CREATE TABLE certificates (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL,
    authority  TEXT NOT NULL,
    serial     BLOB NOT NULL,
    epoch      INTEGER NOT NULL,
    tbs_sha256 BLOB NOT NULL,
    id         TEXT NOT NULL,
    profile    TEXT NOT NULL,
    node       TEXT,
    purpose    TEXT NOT NULL,
    spki       BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    token      TEXT,
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    finished   INTEGER,
    chain      BLOB,
    UNIQUE (authority, serial)
) STRICT;
CREATE INDEX certificates_by_identity ON certificates (id, node, sequence);
CREATE INDEX certificates_by_authority ON certificates (authority, not_after);
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_by_token ON certificates (token) WHERE token IS NOT NULL;
