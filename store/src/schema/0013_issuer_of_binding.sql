-- Who signs a node's leaves, if its binding says so.
ALTER TABLE bindings ADD COLUMN issuer TEXT;

-- Who signs the others: one row, JSON. Until now whoever was active did, and whoever was prepared was about to.
CREATE TABLE default_issuer (
    only  INTEGER PRIMARY KEY CHECK (only = 1),
    value TEXT NOT NULL
) STRICT;
INSERT INTO default_issuer (only, value)
SELECT 1, json_patch(
    json_object('current', coalesce((SELECT name FROM leaf_issuers WHERE state = 'active'), 'builtin')),
    coalesce(
        (SELECT json_object('migration', json_object('to', name, 'stages', json('[]'), 'stage', 0, 'since', since,
                                                     'hold', json_object('secs', 0, 'nanos', 0), 'is_hurried', json('false')))
           FROM leaf_issuers WHERE state = 'prepared'),
        '{}'));

-- An issuer may have more than one root whose leaves are in use; and one may be left in a hurry.
ALTER TABLE leaf_issuers RENAME TO leaf_issuers_before;
CREATE TABLE leaf_issuers (
    name       TEXT NOT NULL,
    generation INTEGER NOT NULL,
    state      TEXT NOT NULL,
    since      INTEGER NOT NULL,
    is_hurried INTEGER NOT NULL,
    PRIMARY KEY (name, generation)
) STRICT, WITHOUT ROWID;
INSERT INTO leaf_issuers SELECT name, 0, state, since, 0 FROM leaf_issuers_before;
DROP TABLE leaf_issuers_before;
