-- Layout 6 of /var/lib/bpfd/state.db; spec/state.md explains it.
CREATE TABLE counters (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT;

-- One row: which database this is, and how many commits of the state it had. The map `v1/state` says the same.
CREATE TABLE identity (
  only    INTEGER PRIMARY KEY CHECK (only = 1),
  uuid    BLOB NOT NULL,
  commits INTEGER NOT NULL
) STRICT;

-- One row while the daemon is RECOVERED: what differed when the state was lost, as JSON.
CREATE TABLE recovery (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  body TEXT NOT NULL
) STRICT;

CREATE TABLE apps (
  uid        TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  owner      INTEGER NOT NULL,
  handle     INTEGER NOT NULL UNIQUE,
  generation INTEGER NOT NULL,
  object     TEXT NOT NULL,
  boot_id    TEXT NOT NULL,
  request_id TEXT,
  body       TEXT NOT NULL
) STRICT;

CREATE TABLE links (
  uid        TEXT PRIMARY KEY,
  app        TEXT NOT NULL REFERENCES apps (uid),
  function   TEXT NOT NULL,
  hook       TEXT NOT NULL,
  owner      INTEGER NOT NULL,
  handle     INTEGER NOT NULL UNIQUE,
  generation INTEGER NOT NULL,
  boot_id    TEXT NOT NULL,
  request_id TEXT,
  body       TEXT NOT NULL
) STRICT;

-- One row while an operation is under way; gone in the transaction that makes its changes the state.
CREATE TABLE operations (
  seq        INTEGER PRIMARY KEY AUTOINCREMENT,
  id         TEXT NOT NULL UNIQUE,
  boot_id    TEXT NOT NULL,
  request_id TEXT,
  owner      INTEGER NOT NULL,
  body       TEXT NOT NULL
) STRICT;

-- What a request was answered with, for callers that repeat it, and a hash of what it had asked for; kept for a day.
CREATE TABLE answers (
  request_id TEXT NOT NULL,
  owner      INTEGER NOT NULL,
  at         INTEGER NOT NULL,
  body       TEXT NOT NULL,
  asked      TEXT NOT NULL,
  PRIMARY KEY (owner, request_id)
) STRICT;
