package main

import (
	"encoding/binary"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// plain is bbolt as most would use it for a log: one bucket, one key a record.
type plain struct{ db *bolt.DB }

func openPlain(dir string, o *bolt.Options) (*plain, error) {
	db, err := bolt.Open(filepath.Join(dir, "plain.db"), 0o600, o)
	if err != nil {
		return nil, err
	}
	return &plain{db}, nil
}

func (s *plain) put(batch [][]byte) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("log"))
		if err != nil {
			return err
		}
		for _, p := range batch {
			seq, err := bucket.NextSequence()
			if err != nil {
				return err
			}
			if err := bucket.Put(binary.BigEndian.AppendUint64(nil, seq), p); err != nil {
				return err
			}
		}
		return nil
	})
}
