package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
)

func brokers() []Fault {
	return []Fault{
		{Name: "broker-killed", About: "SIGKILL, started again after a while", Does: brokerKilled},
		{Name: "broker-frozen", About: "SIGSTOP: connections stay open and silent", Does: brokerFrozen},
		{Name: "broker-wiped", About: "killed with frames in it that nobody has fetched, and started again empty", Does: brokerWiped},
		{Name: "broker-full", About: "no room on the broker's disk; then there is, and it is started again", Needs: []Need{SmallDisks, KeptFrames}, Ends: []string{"broker"}, Does: brokerFull},
	}
}

func programs() []Fault {
	return []Fault{
		{Name: "edge-sidecar-killed", About: "SIGKILL, started again after a while", Does: edgeSidecarKilled},
		{Name: "edge-sidecar-frozen", About: "SIGSTOP for a while", Does: edgeSidecarFrozen},
		{Name: "cloud-sidecar-killed", About: "SIGKILL of each replica's, started again after a while", Does: cloudSidecarKilled},
		{Name: "cloud-sidecar-frozen", About: "SIGSTOP of each replica's for a while", Does: cloudSidecarFrozen},
		{Name: "agent-killed", About: "SIGKILL three times", Does: agentKilled},
		{Name: "agent-frozen", About: "SIGSTOP for a while", Does: agentFrozen},
		{Name: "cloud-killed", About: "SIGKILL of every replica, three times, each after a commit and before its receipt", Does: cloudKilled},
		{Name: "cloud-frozen", About: "SIGSTOP of every replica for a while", Does: cloudFrozen},
		{Name: "replica-killed", About: "SIGKILL of one replica of the cloud with its sidecar", Needs: []Need{Replicas}, Does: replicaKilled},
	}
}

func brokerKilled(ctx context.Context, t *Target) (string, error) {
	return t.restart(ctx, t.Stack.BrokerReady, t.Stack.Broker.Process)
}

func brokerFrozen(ctx context.Context, t *Target) (string, error) {
	return t.freeze(ctx, t.Stack.Broker.Process)
}

func brokerWiped(ctx context.Context, t *Target) (string, error) {
	return t.wipeUnread(ctx, func(stored, waiting uint64) bool { return stored >= uint64(1.5*t.Rate) })
}

// wipeUnread stops the cloud's sidecars first, so that frames which the broker
// has accepted are there and nowhere behind it, and wipes it when there are
// enough: judged by the messages that the agent acknowledged since and the
// records that wait on it.
func (t *Target) wipeUnread(ctx context.Context, enough func(stored, waiting uint64) bool) (string, error) {
	s := t.Stack
	if err := each(t.sidecars(), (*process.Process).Kill); err != nil {
		return "", err
	}
	before := t.Acknowledged()
	err := until(ctx, "messages that the cloud does not get", func() (bool, error) {
		waiting, err := t.waiting(ctx)
		return enough(t.Acknowledged()-before, waiting), err
	})
	if err != nil {
		return "", err
	}
	if err := s.Broker.Wipe(); err != nil {
		return "", err
	}
	since := t.Acknowledged() - before
	if err := s.Broker.Start(); err != nil {
		return "", err
	}
	err = errors.Join(s.BrokerReady(ctx), each(t.sidecars(), (*process.Process).Start))
	return fmt.Sprintf("its data deleted, %d messages after the last delivery", since), err
}

// brokerFull starts the broker again when there is room, since NATS turns
// JetStream off until then.
func brokerFull(ctx context.Context, t *Target) (string, error) {
	s := t.Stack
	if err := t.Broker.Fill(0); err != nil {
		return "", err
	}
	enough := uint64(t.Rate)
	waiting := uint64(0)
	err := until(ctx, "records that wait because the broker is full", func() (_ bool, err error) {
		waiting, err = t.waiting(ctx)
		return waiting > enough, err
	})
	if err != nil {
		return "", err
	}
	if err := pause(ctx, t.some(time.Second, 2*time.Second)); err != nil {
		return "", err
	}
	if err := errors.Join(t.Broker.Free(), s.Broker.Kill()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records waited", waiting), errors.Join(s.Broker.Start(), s.BrokerReady(ctx))
}

func edgeSidecarKilled(ctx context.Context, t *Target) (string, error) {
	return t.restart(ctx, nil, t.Stack.Edge.Sidecar)
}

func edgeSidecarFrozen(ctx context.Context, t *Target) (string, error) {
	return t.freeze(ctx, t.Stack.Edge.Sidecar)
}

func cloudSidecarKilled(ctx context.Context, t *Target) (string, error) {
	return t.restart(ctx, nil, t.sidecars()...)
}

func cloudSidecarFrozen(ctx context.Context, t *Target) (string, error) {
	return t.freeze(ctx, t.sidecars()...)
}

func agentKilled(ctx context.Context, t *Target) (string, error) {
	const kills = 3
	for range kills {
		if err := t.between(ctx, func() error { return nil }); err != nil {
			return "", err
		}
		if err := pause(ctx, t.some(300*time.Millisecond, time.Second)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d kills", kills), nil
}

func agentFrozen(ctx context.Context, t *Target) (string, error) {
	return t.freeze(ctx, t.Stack.Edge.Agent)
}

func cloudKilled(ctx context.Context, t *Target) (string, error) {
	const kills = 3
	untold := uint64(0)
	for range kills {
		n, err := t.killAfterCommit(ctx)
		if err != nil {
			return "", err
		}
		untold += n
		if err := pause(ctx, t.some(300*time.Millisecond, time.Second)); err != nil {
			return "", err
		}
		if err := errors.Join(each(t.clouds(), (*process.Process).Start), t.Stack.CloudReady(ctx)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d kills, %d records in commits that no receipt told of", kills, untold), nil
}

// killAfterCommit holds the receipts back, so that the next commit is surely one
// without a receipt, and kills the cloud as soon as that commit shows. It returns
// how many records were in such commits.
func (t *Target) killAfterCommit(ctx context.Context) (uint64, error) {
	if err := t.receipts(false); err != nil {
		return 0, err
	}
	before, err := t.held(ctx)
	held := before
	if err == nil {
		err = until(ctx, "a commit", func() (_ bool, err error) {
			held, err = t.held(ctx)
			return held > before, err
		})
	}
	if err := errors.Join(err, each(t.clouds(), (*process.Process).Kill)); err != nil {
		return 0, err
	}
	waiting, err := t.waiting(ctx)
	if err == nil && waiting == 0 {
		err = errors.New("the device had a receipt for everything: the kill would prove nothing")
	}
	return held - before, errors.Join(err, t.receipts(true))
}

func cloudFrozen(ctx context.Context, t *Target) (string, error) { return t.freeze(ctx, t.clouds()...) }

func replicaKilled(ctx context.Context, t *Target) (string, error) {
	all := t.Stack.Cloud.Replicas()
	r := all[t.Rand.IntN(len(all))]
	words, err := t.restart(ctx, t.Stack.CloudReady, r.API, r.Sidecar)
	return r.API.Name() + " " + words, err
}

// receipts lets every replica hand over receipts, or none.
func (t *Target) receipts(flow bool) error {
	for _, r := range t.Stack.Cloud.Replicas() {
		do := r.Receipts.Cut
		if flow {
			do = r.Receipts.Heal
		}
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// restart kills programs, leaves them away for a while, starts them and waits
// until they are ready; nil: that is not waited for.
func (t *Target) restart(ctx context.Context, ready func(context.Context) error, programs ...*process.Process) (string, error) {
	away := t.some(2*time.Second, 4*time.Second)
	if err := each(programs, (*process.Process).Kill); err != nil {
		return "", err
	}
	if err := pause(ctx, away); err != nil {
		return "", err
	}
	if err := each(programs, (*process.Process).Start); err != nil {
		return "", err
	}
	if ready == nil {
		ready = func(context.Context) error { return nil }
	}
	return fmt.Sprintf("away for %v", away), ready(ctx)
}

// freeze stops programs where they are, for a while.
func (t *Target) freeze(ctx context.Context, programs ...*process.Process) (string, error) {
	long := t.some(2*time.Second, 5*time.Second)
	if err := each(programs, (*process.Process).Freeze); err != nil {
		return "", err
	}
	err := pause(ctx, long)
	return fmt.Sprintf("for %v", long), errors.Join(err, each(programs, (*process.Process).Thaw))
}

// between kills the agent, does something, and starts it.
func (t *Target) between(ctx context.Context, do func() error) error {
	agent := t.Stack.Edge.Agent
	if err := agent.Kill(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	return t.Stack.AgentReady(ctx)
}
