// Needs the FUSE disk of package powercut, which go-fuse 2.12.1 does not compile
// for on 32-bit ARM and which emulated processes cannot serve; what these tests
// hold the outbox to does not depend on the processor.

//go:build amd64

package outbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/powercut"
)

// needFUSE skips a test where FUSE cannot be used, unless it must not be skipped.
func needFUSE(tb testing.TB) {
	tb.Helper()
	if err := powercut.Available(); err != nil {
		if strings.Contains(os.Getenv("HOLDFAST_TEST_REQUIRE"), "fuse") {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
}

// machine is a device on a disk whose power can be cut.
type machine struct {
	*device
	disk *powercut.Disk
	dir  string
}

func newMachine(tb testing.TB, seed uint64, job errand) *machine {
	tb.Helper()
	needFUSE(tb)
	m := &machine{device: newDevice(tb, seed, job), disk: powercut.New(seed), dir: tb.TempDir()}
	m.job.Dir = filepath.Join(m.dir, "outbox")
	m.mount()
	tb.Cleanup(func() { _ = m.disk.Unmount() })
	return m
}

func (m *machine) mount() {
	m.tb.Helper()
	if err := m.disk.Mount(m.dir); err != nil {
		m.tb.Fatal(err)
	}
}

// live lets a child work until it has acknowledged some records, and cuts the power.
func (m *machine) live(acks int) {
	m.tb.Helper()
	m.job.Seed = m.rng.Uint64()
	c := startChild(m.tb, m.job)
	seen := 0
	for l := range c.lines {
		if m.note(l) {
			seen++
		}
		if seen == acks {
			seen++
			time.Sleep(time.Duration(m.rng.IntN(int(5 * time.Millisecond))))
			m.disk.Cut()
		}
	}
	c.end() // it has no disk any more
	if seen < acks {
		m.tb.Fatalf("the child ended by itself after %d acknowledgements: %q", seen, m.fails)
	}
	m.fails = nil
	m.reboot()
}

func (m *machine) reboot() {
	m.tb.Helper()
	if err := m.disk.Unmount(); err != nil {
		m.tb.Fatal(err)
	}
	m.mount()
}

// A power cut at any moment, which leaves only what was synced and random sectors
// of what was not, loses nothing that was acknowledged.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	cuts := envInt(t, "OUTBOX_CUTS", 5, 100)
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: 256 << 10, Max: 64 << 20, PackFrom: 8, Confirm: true})
	for cut := range cuts {
		m.live(1 + m.rng.IntN(600))
		if missing := m.check(); missing > 0 {
			t.Fatalf("cut %d: %d acknowledged records are missing", cut, missing)
		}
	}
	t.Logf("%d cuts, %d records acknowledged, none missing", cuts, m.total)
}

// The same without fsync loses records: the test above sees what it should.
func TestPowerCutWithoutFsyncLosesRecords(t *testing.T) {
	seed := seeded(t)
	for try := range uint64(20) {
		m := newMachine(t, seed+try, errand{Do: "produce", Segment: 256 << 10, Max: 64 << 20, NoSync: true})
		m.live(500)
		if missing := m.check(); missing > 0 {
			t.Logf("%d of %d acknowledged records are missing, as they must", missing, m.total)
			return
		}
	}
	t.Fatal("nothing was lost without fsync in twenty cuts: the test of the power cut shows nothing")
}

// A power cut while segments are dropped for room and packed: what was acknowledged is
// there, or given up by a loss record that is there.
func TestPowerCutWhileDroppingExplainsEverything(t *testing.T) {
	cuts := envInt(t, "OUTBOX_CUTS", 3, 30)
	m := newMachine(t, seeded(t), errand{Do: "produce", Segment: minSegment, Max: 5 * minSegment, Full: DropOldest, PackFrom: 3, Losing: true})
	for cut := range cuts {
		m.live(100 + m.rng.IntN(900))
		if missing := m.check(); missing > 0 {
			t.Fatalf("cut %d: nothing accounts for %d acknowledged records", cut, missing)
		}
	}
	dropped := uint64(0)
	for _, lost := range m.told {
		dropped += lost.Len()
	}
	if t.Logf("%d cuts, %d records acknowledged, %d numbers given up, each with its record", cuts, m.total, dropped); dropped == 0 && cuts >= 20 {
		t.Fatal("nothing was ever dropped")
	}
}
