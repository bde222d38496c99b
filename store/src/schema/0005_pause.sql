-- While a row is here and its end has not come, no authority is replaced by itself.
CREATE TABLE pause (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    reason TEXT NOT NULL,
    by     TEXT NOT NULL,
    since  INTEGER NOT NULL,
    until  INTEGER NOT NULL
) STRICT;
