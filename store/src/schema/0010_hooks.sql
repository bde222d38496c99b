-- What a hook took, so that no restart tells it again.
CREATE TABLE told (
    hook  TEXT NOT NULL,
    id    TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (hook, id)
) STRICT, WITHOUT ROWID;
