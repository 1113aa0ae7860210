package api

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
)

// Access decides who may read. The zero Access lets everybody: it is for a
// listener that only this machine reaches.
type Access struct {
	tokens map[[32]byte]string // hash to name
}

// ReadAccess reads a file of access tokens, one a line: the SHA-256 of the token
// in hex, and a name for it. Empty lines and lines that begin with # are skipped.
func ReadAccess(path string) (Access, error) {
	f, err := os.Open(path)
	if err != nil {
		return Access{}, fmt.Errorf("read access tokens: %w", err)
	}
	defer f.Close()
	a := Access{tokens: map[[32]byte]string{}}
	for lines, n := bufio.NewScanner(f), 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		sum, name, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(sum)
		if err != nil || len(b) != sha256.Size {
			return Access{}, fmt.Errorf("read access tokens: %s line %d: want 64 hex digits and a name", path, n)
		}
		a.tokens[[32]byte(b)] = strings.TrimSpace(name)
	}
	if len(a.tokens) == 0 {
		return Access{}, fmt.Errorf("read access tokens: %s has none; make one with `cloud-api access create`", path)
	}
	return a, nil
}

// Check lets a request pass that carries a known bearer token. The lookup is by
// hash, so its time tells nothing of the token.
func (a Access) Check(c *fiber.Ctx) error {
	if a.tokens == nil {
		return c.Next()
	}
	token, ok := strings.CutPrefix(c.Get(fiber.HeaderAuthorization), "Bearer ")
	if ok {
		_, ok = a.tokens[sha256.Sum256([]byte(token))]
	}
	if !ok {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="holdfast"`)
		return problem.New(http.StatusUnauthorized, "want the header Authorization: Bearer TOKEN with a token made by `cloud-api access create`")
	}
	return c.Next()
}
