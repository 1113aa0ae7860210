// Package outbox is the log between MQTT and the cloud: an append-only queue on
// bbolt files that survives pulled plugs, full cards and bad cards. What Append
// returned for, or Submit's done was called for, is on the disk, and it stays
// there until a receipt of the cloud covers it or a durable loss record in the
// same log says that it was given up, and why.
package outbox

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var (
	// ErrFull is returned by Submit, Append and Explain, and given to done, when
	// the outbox has been full for longer than FullGrace.
	ErrFull = errors.New("outbox is full")
	// ErrClosed is returned by Submit, Append and Explain once Run is ending,
	// and given to done for what was queued and could not be committed.
	ErrClosed = errors.New("outbox is closed")
	// ErrLocked is returned by Open and by the tools that read a folder when
	// another process has the outbox open.
	ErrLocked = errors.New("outbox is in use by another process")
	// ErrForeign is returned by Trim for a receipt that is for another agent.
	ErrForeign = errors.New("receipt is for another agent")
	// ErrNeverMade is returned by Trim and Again for seqs that this device never
	// made. Nothing was deleted.
	ErrNeverMade = errors.New("seqs were never made on this device")
	// ErrDraft is returned by Submit, Append and Explain for what no record can be.
	ErrDraft = errors.New("not a record")
)

// Profile says when the committer commits.
type Profile string

const (
	// Latency commits whatever queued while the previous commit was syncing.
	Latency Profile = "latency"
	// Wear waits for Options.Interval since the previous commit, or until the
	// queue is full or Flush is called: fewer and larger writes, which a card
	// lives longer with. Acknowledgements wait all the same.
	Wear Profile = "wear"
)

// Policy says what a full outbox does.
type Policy string

const (
	// Refuse keeps what there is and takes nothing more.
	Refuse Policy = "refuse"
	// DropOldest gives up the oldest segment, after a loss record for it is durable.
	DropOldest Policy = "drop-oldest"
)

// Options configure an outbox. Dir and Agent are required; everything else has
// a default that its zero value stands for.
type Options struct {
	Dir     string // made when missing
	Agent   string // whose receipts count
	Version string // of the agent, for start records

	Profile  Profile       // Latency
	Interval time.Duration // least time between commits with Wear; 250 ms

	SegmentBytes int64 // of one file; 64 MiB, and at most a quarter of MaxBytes
	MaxBytes     int64 // of the folder, quarantined files apart; 1 GiB
	KeepBytes    int64 // of receipted segments, kept as long as nobody needs the room; 0 keeps none
	ReserveBytes int64 // set aside on the disk for the next segment; SegmentBytes, which is the most; negative sets none aside

	MaxAge    time.Duration // given up when older; 0 never
	Full      Policy        // Refuse
	FullGrace time.Duration // how long drafts wait in a full outbox before they fail; 30 s

	QueueRecords int   // drafts waiting for a commit; 8192
	QueueBytes   int64 // of those drafts; 4 MiB

	Now        func() telemetry.Instant // the system's clocks
	Boot       [16]byte                 // the kernel's boot id; read from /proc when zero
	Logger     *slog.Logger             // slog.Default()
	Registerer prometheus.Registerer    // nil: no metrics

	// For tests alone.
	noSync   bool // shows what is lost without fsync
	packFrom int  // packFrom
	unclean  bool // Run ends as if it had been killed
}

const minSegment = 128 << 10

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return errors.New("outbox: no folder given")
	}
	if err := telemetry.ValidateAgent(o.Agent); err != nil {
		return err
	}
	o.Profile = cmp.Or(o.Profile, Latency)
	o.Interval = cmp.Or(o.Interval, 250*time.Millisecond)
	o.MaxBytes = cmp.Or(o.MaxBytes, 1<<30)
	o.SegmentBytes = max(min(cmp.Or(o.SegmentBytes, 64<<20), o.MaxBytes/4), minSegment)
	o.ReserveBytes = min(cmp.Or(o.ReserveBytes, o.SegmentBytes), o.SegmentBytes)
	o.Full = cmp.Or(o.Full, Refuse)
	o.FullGrace = cmp.Or(o.FullGrace, 30*time.Second)
	o.QueueRecords = cmp.Or(o.QueueRecords, 8192)
	o.QueueBytes = cmp.Or(o.QueueBytes, 4<<20)
	o.packFrom = cmp.Or(o.packFrom, packFrom)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Now == nil {
		o.Now = now
	}
	if o.Boot == ([16]byte{}) {
		o.Boot = bootID()
	}
	if o.Profile != Latency && o.Profile != Wear {
		return fmt.Errorf("outbox: profile %q: want %q or %q", o.Profile, Latency, Wear)
	}
	if o.Full != Refuse && o.Full != DropOldest {
		return fmt.Errorf("outbox: full policy %q: want %q or %q", o.Full, Refuse, DropOldest)
	}
	return nil
}

// now reads both clocks. CLOCK_BOOTTIME goes on while the device sleeps.
func now() telemetry.Instant {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // cannot fail for a clock that exists
	return telemetry.Instant{Boot: time.Duration(t.Nano()), Wall: time.Now().UnixNano()}
}

// bootID returns the kernel's, and zeros when it cannot be had: no two epochs are
// taken to share that boot.
func bootID() (id [16]byte) {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// Outbox is an open folder. All methods may be called from any goroutine. Run
// must run for anything to become durable or be deleted.
type Outbox struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	lock    *os.File
	queue   *queue
	kick    chan struct{} // the committer has something to do besides the queue
	running chan struct{} // closed when Run has returned
	began   bool          // Run was called; mu guards it

	mu      sync.Mutex // guards what follows, the catalogue and all in it
	epochs  map[telemetry.Epoch]*epoch
	order   []*epoch   // ascending
	files   []*segment // oldest first
	current *epoch
	prior   *epoch // whose place current takes; nil in a new folder
	wait    chan struct{}
	inside  []item // losses that Explain appends, ahead of the queue
	stat    counters
	changes changes
	trimmed time.Time // Issued of the newest receipt

	doneBytes int64 // in files that are done
	condemned bool  // files may have to be quarantined
	fullSince time.Time
	spare     int64 // bytes set aside in the spare file; the committer alone changes it

	handles handles

	// What follows belongs to the committer alone.
	live     *segment
	recs     []telemetry.Record
	last     time.Time
	synced   bool          // the last anchor called the clock synchronised
	ranBase  time.Duration // how long the device had run when Boot was 0
	expireAt time.Duration // time since boot of the next look at ages
	asideAt  time.Time     // of the next try to set a spare aside
	freeing  bool          // makeRoom is at work
	mendAt   time.Time     // of the next try to quarantine
}

// Open opens the folder, takes its lock and finds out what is in it, which
// reads little: file names, and the end of what was written last. It returns
// ErrLocked when another process has the folder open.
func Open(opts Options) (*Outbox, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open outbox %s: %w", opts.Dir, err)
	}
	o := &Outbox{
		opts: opts, log: opts.Logger, lock: lock,
		queue: newQueue(opts.QueueRecords, opts.QueueBytes),
		kick:  make(chan struct{}, 1), running: make(chan struct{}), wait: make(chan struct{}),
		epochs:  map[telemetry.Epoch]*epoch{},
		changes: newChanges(), stat: counters{lost: map[telemetry.Reason]uint64{}},
	}
	if err := o.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open outbox %s: %w", opts.Dir, err), lock.Close())
	}
	o.metrics = newMetrics(opts.Registerer, o)
	return o, nil
}

func lockDir(dir string) (*os.File, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, nameLock), os.O_RDWR|os.O_CREATE, 0o600)
	return flock(f, err, unix.LOCK_EX)
}

// flock takes a lock on a file that was opened with err, or returns ErrLocked.
func flock(f *os.File, err error, how int) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// makeDir makes a folder and those above it, and their names durable: also when
// it is there, since who made it may not have lived to do that.
func makeDir(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err // a parent that may not be read is somebody else's care
	}
	return nil
}

func newEpochID(ordinal uint64) telemetry.Epoch {
	e := telemetry.Epoch{Ordinal: ordinal}
	_, _ = rand.Read(e.ID[:]) // crypto/rand never fails
	return e
}

// Close ends what Run left open and gives the folder free. It waits for Run,
// whose context must have ended.
func (o *Outbox) Close() error {
	o.mu.Lock()
	began := o.began
	o.mu.Unlock()
	o.queue.stop(ErrClosed)
	if began {
		<-o.running
	}
	o.queue.fail(ErrClosed)
	o.handles.closeAll()
	err := o.closeLive()
	if err == nil {
		o.metrics.unregister()
	}
	return errors.Join(err, o.lock.Close())
}

// Wait returns a channel that is closed at the next commit, trim or quarantine.
// Take it before looking for work, and nothing is missed.
func (o *Outbox) Wait() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wait
}

// wakeLocked closes the channel that Wait gave out.
func (o *Outbox) wakeLocked() {
	close(o.wait)
	o.wait = make(chan struct{})
}

// nudge has the committer look for work.
func (o *Outbox) nudge() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// Epochs returns the epochs that have records on the device, ascending. The
// last one is the current one, also before its first record.
func (o *Outbox) Epochs() []telemetry.OpenEpoch {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]telemetry.OpenEpoch, 0, len(o.order))
	for _, e := range o.order {
		if len(e.runs) > 0 || e == o.current {
			out = append(out, e.open())
		}
	}
	return out
}

// Flush has the committer commit now what is queued, whatever the profile. Call
// it when every source waits for its acknowledgements.
func (o *Outbox) Flush() { o.queue.flush() }
