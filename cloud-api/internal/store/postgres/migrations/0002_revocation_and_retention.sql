-- When the agent was revoked, 0 when it is not.
ALTER TABLE agents ADD COLUMN revoked_at bigint NOT NULL DEFAULT 0;

-- When they came: retention removes them as it removes readings.
ALTER TABLE anchors ADD COLUMN received bigint NOT NULL DEFAULT 0;
ALTER TABLE losses ADD COLUMN received bigint NOT NULL DEFAULT 0;
UPDATE anchors SET received = e.received_at FROM epochs e WHERE e.id = epoch_id;
UPDATE losses SET received = e.received_at FROM epochs e WHERE e.id = epoch_id;
CREATE INDEX anchors_received ON anchors (received);
CREATE INDEX losses_received ON losses (received);
CREATE INDEX quarantine_received ON quarantine (received) WHERE trusted;
