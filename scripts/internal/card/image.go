// Package card turns an image of an operating system into a card: it reads the
// image in whatever form it comes, changes the FAT boot partition in a copy on
// this machine, writes, and reads back. A card that was not written and verified
// to its end has no partition table, so nobody takes it for a whole one.
package card

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrHash says that an image is not what its digest promises.
var ErrHash = errors.New("wrong SHA-256")

// Sum returns the SHA-256 of a file in hexadecimal digits. It tells progress how
// many bytes it has read.
func Sum(ctx context.Context, path string, progress func(done int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &meter{ctx: ctx, r: f, progress: progress}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Expected returns the digest in the file beside an image: FILE.sha256, as
// sha256sum writes it. It is os.ErrNotExist when there is none.
func Expected(path string) (string, error) {
	text, err := os.ReadFile(path + ".sha256")
	if err != nil {
		return "", err
	}
	name := filepath.Base(path)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 1 || len(fields) == 2 && strings.TrimPrefix(fields[1], "*") == name {
			return strings.ToLower(fields[0]), nil
		}
	}
	return "", fmt.Errorf("%s.sha256 has no line for %s", path, name)
}

// Open returns what is in an image, decompressed. The form is told from the
// first bytes: xz, zstd, gzip, or none.
func Open(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(f, 1<<20)
	magic, err := buffered.Peek(6)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is no image: it has less than six bytes", path), f.Close())
	}
	r, err := decompress(buffered, magic)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	return &image{Reader: r, file: f}, nil
}

func decompress(r io.Reader, magic []byte) (io.Reader, error) {
	switch {
	case bytes.Equal(magic, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(r)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte("PK\x03\x04")):
		return nil, errors.New("it is a ZIP archive: unpack it and give the .img inside")
	}
	return r, nil
}

// image closes what Reader reads from.
type image struct {
	io.Reader
	file *os.File
}

func (i *image) Close() error {
	var err error
	if c, ok := i.Reader.(io.Closer); ok {
		err = c.Close()
	}
	return errors.Join(err, i.file.Close())
}

// meter counts what goes by, and ends with its context.
type meter struct {
	ctx      context.Context
	r        io.Reader
	done     int64
	progress func(done int64)
}

func (m *meter) Read(b []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(b)
	m.done += int64(n)
	if m.progress != nil {
		m.progress(m.done)
	}
	return n, err
}
