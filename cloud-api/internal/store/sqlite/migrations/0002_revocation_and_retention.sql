-- When the agent was revoked, 0 when it is not.
ALTER TABLE agents ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0;

-- When they came: retention removes them as it removes readings.
ALTER TABLE anchors ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
ALTER TABLE losses ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
UPDATE anchors SET received = coalesce((SELECT received_at FROM epochs WHERE epochs.id = epoch_id), 0);
UPDATE losses SET received = coalesce((SELECT received_at FROM epochs WHERE epochs.id = epoch_id), 0);
CREATE INDEX anchors_received ON anchors(received);
CREATE INDEX losses_received ON losses(received);
CREATE INDEX quarantine_received ON quarantine(received) WHERE trusted = 1;
