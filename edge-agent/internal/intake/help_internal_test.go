package intake

import (
	"bufio"
	"bytes"
	"crypto/sha256"
)

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

func sha(b []byte) [32]byte { return sha256.Sum256(b) }
