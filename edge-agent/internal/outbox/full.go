package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// Room on the disk is found before it is needed. The next segment's bytes are set
// aside in a spare file while the present one fills, so a commit runs out of
// space only where the file system promises nothing. When there is no room for
// another spare, the present segment is the last, and keeps its end for the
// outbox's own records: losses, receipts, the start of an epoch.

// retryRoom is how often a full outbox looks whether somebody else made room.
const retryRoom = 5 * time.Second

// totalLocked returns what the folder takes, in bytes: live and spare count with
// what is set aside for them, quarantined files do not count.
func (o *Outbox) totalLocked() int64 {
	total := o.spare
	for _, f := range o.files {
		total += f.size
	}
	return total
}

func (o *Outbox) roomLeft() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opts.MaxBytes - o.totalLocked()
}

// findRoom sees to it that there is a spare for the segment to come. The
// outbox's own records get a small one even beyond MaxBytes: without it they
// could not say what makes room.
func (o *Outbox) findRoom(own bool) error {
	if o.spare > 0 {
		return nil
	}
	err := o.makeRoom(o.opts.SegmentBytes)
	if left := o.roomLeft(); errors.Is(err, errNoRoom) && left >= max(minSegment, o.opts.SegmentBytes/16) {
		err = o.trySpare(min(left, o.opts.SegmentBytes))
	}
	if errors.Is(err, errNoRoom) && own {
		err = o.trySpare(minSegment)
	}
	return err
}

// setAside reserves the segment after the present one, making room as the policy
// allows. That there is none is no error: it is tried again when something was
// removed, and now and then.
func (o *Outbox) setAside() error {
	if o.spare > 0 || o.live == nil || o.freeing || o.opts.ReserveBytes < 0 || time.Now().Before(o.asideAt) {
		return nil
	}
	err := o.makeRoom(o.opts.ReserveBytes)
	if errors.Is(err, errNoRoom) {
		o.asideAt = time.Now().Add(retryRoom)
		return nil
	}
	return err
}

// makeRoom removes segments as the policy allows, receipted ones first, until a
// spare of size bytes fits. What explains a removal is committed meanwhile, which
// may need a segment too: it gets what there is, and removes nothing more.
func (o *Outbox) makeRoom(size int64) error {
	if o.freeing {
		return errNoRoom
	}
	o.freeing = true
	defer func() { o.freeing = false }()
	drop := o.opts.Full == DropOldest
	for tries := 0; ; tries++ {
		if tries > 1000 {
			return fatal(errors.New("BUG: segments are removed and no room is made"))
		}
		err := errNoRoom
		if o.roomLeft() >= size {
			err = o.trySpare(size)
		}
		if !errors.Is(err, errNoRoom) {
			return err
		}
		if err := o.freeOne(drop); err != nil && !errors.Is(err, errNeeded) {
			return err
		}
	}
}

func (o *Outbox) trySpare(size int64) error {
	path := filepath.Join(o.opts.Dir, nameSpare)
	if err := reserve(path, size, true); err != nil {
		err = errors.Join(err, os.Remove(path))
		if noSpace(err) {
			return errors.Join(errNoRoom, err)
		}
		return fatal(err)
	}
	o.mu.Lock()
	o.spare = size
	o.mu.Unlock()
	return nil
}

// freeOne removes one segment: the oldest of the receipted, or else, if drop is
// set, the oldest there is. It returns errNoRoom when none may go.
func (o *Outbox) freeOne(drop bool) error {
	if o.live == nil || o.live.live == nil {
		return errNoRoom // nothing could say durably why a segment went
	}
	o.lookAll()
	if f := o.oldestDone(); f != nil {
		return o.discard(f)
	}
	if !drop {
		return errNoRoom
	}
	f := o.oldestSealed()
	if f == nil {
		return errNoRoom
	}
	return o.drop(f)
}

func (o *Outbox) oldestSealed() *segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.files {
		if f.live == nil && f.bad == nil {
			return f
		}
	}
	return nil
}

// noteFull counts the time that drafts have waited for room. After FullGrace they
// fail, and Submit fails at once, until there is room.
func (o *Outbox) noteFull() (wait time.Duration) {
	o.mu.Lock()
	if o.fullSince.IsZero() {
		o.fullSince = time.Now()
		o.log.Warn("outbox: full", "policy", string(o.opts.Full), "max_bytes", o.opts.MaxBytes)
	}
	left := o.opts.FullGrace - time.Since(o.fullSince)
	o.mu.Unlock()
	if left > 0 {
		return min(left, retryRoom)
	}
	o.queue.setRefuse(true)
	o.queue.fail(ErrFull)
	return retryRoom
}

func (o *Outbox) noteRoom() {
	o.mu.Lock()
	since := o.fullSince
	o.fullSince = time.Time{}
	o.mu.Unlock()
	if !since.IsZero() {
		o.queue.setRefuse(false)
		o.log.Info("outbox: room again", "after", time.Since(since))
	}
}

// retryFull looks for room although nothing is queued, because nothing can be
// while Submit refuses.
func (o *Outbox) retryFull() (time.Duration, error) {
	o.mu.Lock()
	full := !o.fullSince.IsZero()
	o.mu.Unlock()
	if !full {
		return 0, nil
	}
	err := o.makeFit(batchBytes/16+commitPages, false)
	if errors.Is(err, errNoRoom) {
		return o.noteFull(), nil
	}
	if err == nil {
		o.noteRoom()
	}
	return 0, err
}
