package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/outbox/boltpage"
)

// A segment's dictionary gives each topic a number, from 1, the first time it is
// used there. Beyond these bounds topics stand in the records themselves, so a
// publisher that invents topics costs room and no memory.
const (
	maxTopics     = 4096
	maxTopicBytes = 256 << 10
)

// dictionary is that of a segment being written.
type dictionary struct {
	ids   map[string]uint64
	bytes int
	fresh []string // not written yet: the last of the numbers given
}

// id returns a topic's number, and 0 when it has none and gets none.
func (d *dictionary) id(topic string) uint64 {
	if id, ok := d.ids[topic]; ok {
		return id
	}
	if len(d.ids) >= maxTopics || d.bytes+len(topic) > maxTopicBytes {
		return 0
	}
	if d.ids == nil {
		d.ids = map[string]uint64{}
	}
	id := uint64(len(d.ids) + 1)
	d.ids[topic] = id
	d.bytes += len(topic)
	d.fresh = append(d.fresh, topic)
	return id
}

// flush writes the topics that are new.
func (d *dictionary) flush(put func(key, value []byte) error) error {
	first := len(d.ids) - len(d.fresh) + 1
	for i, t := range d.fresh {
		key := topicKey(uint64(first + i))
		if err := put(key, sealSum(append(key[:len(key):len(key)], t...))); err != nil {
			return err
		}
	}
	d.fresh = nil
	return nil
}

func topicKey(id uint64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(id)) }

// decodeTopic checks a dictionary's entry. One wrong bit is put right: many
// records hang on one topic, and the checksum of each of them covers it, so a
// repair that was wrong cannot serve a wrong reading.
func decodeTopic(id uint64, value []byte) (string, error) {
	b, err := openSum(value)
	if err != nil {
		b, err = repair(value)
	}
	if err != nil {
		return "", fmt.Errorf("topic %d: %w", id, err)
	}
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) != id {
		return "", damaged("topic %d: another's", id)
	}
	return string(b[4:]), nil
}

// maxRepair bounds the work of one repair, which is quadratic.
const maxRepair = 1 << 10

func repair(value []byte) ([]byte, error) {
	if len(value) > maxRepair {
		return nil, damaged("checksum of %d bytes", len(value))
	}
	b := append([]byte(nil), value...)
	for i := range b {
		for bit := byte(1); bit != 0; bit <<= 1 {
			b[i] ^= bit
			if out, err := openSum(b); err == nil {
				return out, nil
			}
			b[i] ^= bit
		}
	}
	return nil, damaged("checksum of %d bytes", len(value))
}

// topicsOf looks numbers up in a segment's dictionary and remembers them.
func topicsOf(f *boltpage.File) topics {
	known := map[uint64]string{}
	return func(id uint64) (string, error) {
		if t, ok := known[id]; ok {
			return t, nil
		}
		if id == 0 || id > maxTopics {
			return "", damaged("topic %d", id)
		}
		t, err := lookupTopic(f, id)
		if err == nil {
			known[id] = t
		}
		return t, err
	}
}

func lookupTopic(f *boltpage.File, id uint64) (string, error) {
	tree, err := f.Bucket(bucketTopics)
	if errors.Is(err, boltpage.ErrNoBucket) {
		return "", damaged("no dictionary")
	}
	if err != nil {
		return "", err
	}
	v, err := tree.Get(topicKey(id))
	if err != nil {
		return "", err
	}
	if v == nil {
		return "", damaged("topic %d is not in the dictionary", id)
	}
	return decodeTopic(id, v)
}
