package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// streamConfigs are the two streams. Old messages may go: the agent that made a frame keeps it until a receipt covers it.
func (m metadata) streamConfigs() []jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if m.StreamStorage == "memory" {
		storage = jetstream.MemoryStorage
	}
	return []jetstream.StreamConfig{
		{
			Name: m.UpStream, Subjects: m.UpSubjects, Description: "Frames on their way to the cloud",
			MaxAge: m.UpMaxAge, MaxBytes: size(m.UpMaxBytes), MaxMsgsPerSubject: -1,
			Discard: jetstream.DiscardOld, Storage: storage, Replicas: m.StreamReplicas,
		},
		{
			Name: m.DownStream, Subjects: m.DownSubjects, Description: "The last receipt for each agent",
			MaxAge: m.DownMaxAge, MaxBytes: size(m.DownMaxBytes), MaxMsgsPerSubject: 1,
			Discard: jetstream.DiscardOld, Storage: storage, Replicas: m.StreamReplicas,
		},
	}
}

// ensureStreams makes what is missing. With apply, existing streams also get the file's settings; later checks leave them as
// they are, so that an operator may tune a running system.
func ensureStreams(ctx context.Context, js jetstream.JetStream, want []jetstream.StreamConfig, apply bool) (made []string, err error) {
	for _, cfg := range want {
		created, e := ensureStream(ctx, js, cfg, apply)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("stream %s: %w", cfg.Name, e))
		}
		if created {
			made = append(made, cfg.Name)
		}
	}
	return made, err
}

func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, apply bool) (created bool, err error) {
	s, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return false, nil // another replica was quicker
		}
		return err == nil, err
	}
	if err != nil || !apply {
		return false, err
	}
	have := s.CachedInfo().Config
	if sameStream(have, cfg) {
		return false, nil
	}
	_, err = js.UpdateStream(ctx, merge(have, cfg))
	return false, err
}

func sameStream(have, want jetstream.StreamConfig) bool {
	return slices.Equal(have.Subjects, want.Subjects) && have.MaxAge == want.MaxAge && have.MaxBytes == want.MaxBytes &&
		have.MaxMsgsPerSubject == want.MaxMsgsPerSubject && have.Replicas == want.Replicas
}

// merge changes only what the file speaks of; storage cannot be changed on a stream that exists.
func merge(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	have.Subjects, have.MaxAge, have.MaxBytes = want.Subjects, want.MaxAge, want.MaxBytes
	have.MaxMsgsPerSubject, have.Replicas = want.MaxMsgsPerSubject, want.Replicas
	return have
}
