-- What the cloud knows of each agent, with sums over its epochs. The row is the
-- lock under which everything of the agent changes.
CREATE TABLE agents (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  key bytea NOT NULL,
  enrolled_at bigint NOT NULL,
  first_seen bigint NOT NULL DEFAULT 0,
  last_seen bigint NOT NULL DEFAULT 0,
  revision bigint NOT NULL DEFAULT 0,
  held bigint NOT NULL DEFAULT 0,
  expired bigint NOT NULL DEFAULT 0,
  quarantined bigint NOT NULL DEFAULT 0,
  lost bigint NOT NULL DEFAULT 0,
  on_device bigint NOT NULL DEFAULT 0,
  missing bigint NOT NULL DEFAULT 0,
  readings bigint NOT NULL DEFAULT 0,
  redelivered bigint NOT NULL DEFAULT 0,
  open_epochs bigint NOT NULL DEFAULT 0,
  lead text NOT NULL DEFAULT '',
  lead_mark bigint NOT NULL DEFAULT 0,
  lead_turns bigint NOT NULL DEFAULT 0,
  sampled_at bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50); -- updated with every frame: leave room to do it in place

-- How much was on the device, noted now and then while it is heard.
CREATE TABLE backlog (
  agent_id bigint NOT NULL REFERENCES agents (id),
  at bigint NOT NULL,
  on_device bigint NOT NULL,
  held bigint NOT NULL,
  PRIMARY KEY (agent_id, at)
);

-- The ledger rows: what a frame is checked against.
CREATE TABLE epochs (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  agent_id bigint NOT NULL REFERENCES agents (id),
  ordinal bigint NOT NULL,
  eid bytea NOT NULL,
  ledger bytea NOT NULL DEFAULT '',
  missing bigint NOT NULL DEFAULT 0,
  on_device bigint NOT NULL DEFAULT 0,
  watermark bigint NOT NULL DEFAULT 0,
  boot bytea, -- of the start record, when it has arrived
  not_after bigint NOT NULL DEFAULT 0, -- see clock.Timeline
  stale bigint NOT NULL DEFAULT 0, -- corrected times are to be made anew; counts how often that was found
  first_received bigint NOT NULL DEFAULT 0, -- of its readings: bounds the partitions to look into
  last_received bigint NOT NULL DEFAULT 0,
  received_at bigint NOT NULL DEFAULT 0,
  UNIQUE (agent_id, ordinal, eid)
) WITH (fillfactor = 50);
CREATE INDEX epochs_missing ON epochs (agent_id) WHERE missing > 0;
CREATE INDEX epochs_open ON epochs (agent_id, ordinal) WHERE on_device > 0;
CREATE INDEX epochs_boot ON epochs (agent_id, boot) WHERE boot IS NOT NULL;
CREATE INDEX epochs_stale ON epochs (id) WHERE stale > 0;
CREATE INDEX epochs_received ON epochs (last_received) WHERE last_received > 0;

-- A topic can be longer than an index entry: it is found by its hash.
CREATE TABLE topics (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  agent_id bigint NOT NULL REFERENCES agents (id),
  hash bytea NOT NULL,
  name text COLLATE "C" NOT NULL,
  UNIQUE (agent_id, hash)
);

-- Partitioned by day of received time (Unix nanoseconds, UTC). No unique key: the
-- ledger row is what stores once.
CREATE TABLE readings (
  epoch_id bigint NOT NULL,
  seq bigint NOT NULL,
  topic_id bigint NOT NULL,
  flags smallint NOT NULL,
  boot bigint NOT NULL,
  recorded bigint NOT NULL,
  corrected bigint NOT NULL,
  received bigint NOT NULL,
  payload bytea NOT NULL
) PARTITION BY RANGE (received);
CREATE INDEX readings_by_seq ON readings (epoch_id, seq);
CREATE INDEX readings_by_topic ON readings (topic_id, corrected);
-- Rows here mean that no partition was made in time: it is watched.
CREATE TABLE readings_default PARTITION OF readings DEFAULT;

CREATE TABLE anchors (
  epoch_id bigint NOT NULL,
  seq bigint NOT NULL,
  boot bigint NOT NULL,
  wall bigint NOT NULL,
  synchronised boolean NOT NULL,
  moved bigint NOT NULL,
  max_error bigint NOT NULL,
  PRIMARY KEY (epoch_id, boot, seq)
);

CREATE TABLE losses (
  epoch_id bigint NOT NULL,
  seq bigint NOT NULL,
  of_epoch text NOT NULL,
  first numeric NOT NULL,
  last numeric NOT NULL,
  reason smallint NOT NULL,
  readings numeric NOT NULL,
  bytes numeric NOT NULL,
  topic text,
  size numeric,
  sha256 bytea,
  PRIMARY KEY (epoch_id, seq)
);

CREATE TABLE alarms (
  agent_id bigint NOT NULL REFERENCES agents (id),
  kind text NOT NULL,
  epoch text NOT NULL,
  detail text NOT NULL,
  first bigint NOT NULL,
  last bigint NOT NULL,
  count bigint NOT NULL,
  PRIMARY KEY (agent_id, kind, epoch)
);

CREATE TABLE quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  agent text NOT NULL,
  trusted boolean NOT NULL,
  epoch text NOT NULL,
  first bigint NOT NULL,
  last bigint NOT NULL,
  why text NOT NULL,
  size bigint NOT NULL,
  received bigint NOT NULL,
  raw bytea NOT NULL
);
CREATE INDEX quarantine_samples ON quarantine (id) WHERE NOT trusted;

CREATE TABLE tokens (
  id text PRIMARY KEY,
  secret_hash bytea NOT NULL,
  agent text NOT NULL,
  prefix text NOT NULL,
  uses bigint NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  expires bigint NOT NULL,
  created bigint NOT NULL
);

-- Which keys a token enrolled: the same key may redeem it again.
CREATE TABLE redemptions (
  token_id text NOT NULL REFERENCES tokens (id),
  agent text NOT NULL,
  key bytea NOT NULL,
  at bigint NOT NULL,
  PRIMARY KEY (token_id, agent, key)
);
