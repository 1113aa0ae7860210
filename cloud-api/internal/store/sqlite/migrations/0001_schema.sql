-- What the cloud knows of each agent, with sums over its epochs.
CREATE TABLE agents (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  key BLOB NOT NULL,
  enrolled_at INTEGER NOT NULL,
  first_seen INTEGER NOT NULL DEFAULT 0,
  last_seen INTEGER NOT NULL DEFAULT 0,
  revision INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0,
  expired INTEGER NOT NULL DEFAULT 0,
  quarantined INTEGER NOT NULL DEFAULT 0,
  lost INTEGER NOT NULL DEFAULT 0,
  on_device INTEGER NOT NULL DEFAULT 0,
  missing INTEGER NOT NULL DEFAULT 0,
  readings INTEGER NOT NULL DEFAULT 0,
  redelivered INTEGER NOT NULL DEFAULT 0,
  open_epochs INTEGER NOT NULL DEFAULT 0,
  lead TEXT NOT NULL DEFAULT '',
  lead_mark INTEGER NOT NULL DEFAULT 0,
  lead_turns INTEGER NOT NULL DEFAULT 0,
  sampled_at INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How much was on the device, noted now and then while it is heard.
CREATE TABLE backlog (
  agent_id INTEGER NOT NULL REFERENCES agents(id),
  at INTEGER NOT NULL,
  on_device INTEGER NOT NULL,
  held INTEGER NOT NULL,
  PRIMARY KEY (agent_id, at)
) STRICT, WITHOUT ROWID;

-- The ledger rows: what a frame is checked against.
CREATE TABLE epochs (
  id INTEGER PRIMARY KEY,
  agent_id INTEGER NOT NULL REFERENCES agents(id),
  ordinal INTEGER NOT NULL,
  eid BLOB NOT NULL,
  ledger BLOB NOT NULL,
  missing INTEGER NOT NULL DEFAULT 0,
  on_device INTEGER NOT NULL DEFAULT 0,
  watermark INTEGER NOT NULL DEFAULT 0,
  boot BLOB, -- of the start record, when it has arrived
  not_after INTEGER NOT NULL DEFAULT 0, -- see clock.Timeline
  stale INTEGER NOT NULL DEFAULT 0, -- corrected times are to be made anew; counts how often that was found
  last_received INTEGER NOT NULL DEFAULT 0, -- of its readings
  received_at INTEGER NOT NULL DEFAULT 0,
  UNIQUE (agent_id, ordinal, eid)
) STRICT;
CREATE INDEX epochs_missing ON epochs(agent_id) WHERE missing > 0;
CREATE INDEX epochs_open ON epochs(agent_id, ordinal) WHERE on_device > 0;
CREATE INDEX epochs_boot ON epochs(agent_id, boot) WHERE boot IS NOT NULL;

CREATE INDEX epochs_received ON epochs(last_received) WHERE last_received > 0;
CREATE INDEX epochs_stale ON epochs(id) WHERE stale > 0;

CREATE TABLE topics (
  id INTEGER PRIMARY KEY,
  agent_id INTEGER NOT NULL REFERENCES agents(id),
  name TEXT NOT NULL,
  UNIQUE (agent_id, name)
) STRICT;

-- id is epochs.id * 2^40 + seq: identity and order in one key, appended to.
CREATE TABLE readings (
  id INTEGER PRIMARY KEY,
  topic_id INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  boot INTEGER NOT NULL,
  recorded INTEGER NOT NULL,
  corrected INTEGER NOT NULL,
  received INTEGER NOT NULL,
  payload BLOB NOT NULL
) STRICT;
CREATE INDEX readings_by_topic ON readings(topic_id, corrected);

CREATE TABLE anchors (
  epoch_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  boot INTEGER NOT NULL,
  wall INTEGER NOT NULL,
  synchronised INTEGER NOT NULL,
  moved INTEGER NOT NULL,
  max_error INTEGER NOT NULL,
  PRIMARY KEY (epoch_id, boot, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE losses (
  epoch_id INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  of_epoch TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  reason INTEGER NOT NULL,
  readings INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  topic TEXT,
  size INTEGER,
  sha256 BLOB,
  PRIMARY KEY (epoch_id, seq)
) STRICT;

CREATE TABLE alarms (
  agent_id INTEGER NOT NULL REFERENCES agents(id),
  kind TEXT NOT NULL,
  epoch TEXT NOT NULL,
  detail TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (agent_id, kind, epoch)
) STRICT;

CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  agent TEXT NOT NULL,
  trusted INTEGER NOT NULL,
  epoch TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  why TEXT NOT NULL,
  size INTEGER NOT NULL,
  received INTEGER NOT NULL,
  raw BLOB NOT NULL
) STRICT;
CREATE INDEX quarantine_samples ON quarantine(id) WHERE trusted = 0;

CREATE TABLE tokens (
  id TEXT PRIMARY KEY,
  secret_hash BLOB NOT NULL,
  agent TEXT NOT NULL,
  prefix TEXT NOT NULL,
  uses INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0,
  expires INTEGER NOT NULL,
  created INTEGER NOT NULL
) STRICT;

-- Which keys a token enrolled: the same key may redeem it again.
CREATE TABLE redemptions (
  token_id TEXT NOT NULL REFERENCES tokens(id),
  agent TEXT NOT NULL,
  key BLOB NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (token_id, agent, key)
) STRICT;
