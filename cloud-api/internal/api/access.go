package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/problem"
)

// Caller is who asks, and what they may see.
type Caller struct {
	Name   string
	Role   Role
	Agents []string // ids, or beginnings of ids before a *; none: all
}

// sees reports whether the caller may see an agent.
func (w *Caller) sees(agent string) bool {
	return len(w.Agents) == 0 || slices.ContainsFunc(w.Agents, func(p string) bool {
		begin, many := strings.CutSuffix(p, "*")
		return p == agent || many && strings.HasPrefix(agent, begin)
	})
}

// allow is sees as the store takes it: nil when everything may be seen.
func (w *Caller) allow() func(string) bool {
	if len(w.Agents) == 0 {
		return nil
	}
	return w.sees
}

// key names the caller for the rate limit.
func (w *Caller) key(c *fiber.Ctx) string {
	if w.Name != "" {
		return w.Name
	}
	return "ip " + c.Context().RemoteIP().String()
}

// Access decides who may do what, by a file of hashed tokens, by an identity
// provider, or both. A nil Access lets everybody do everything: it is for a
// listener that only this machine reaches.
type Access struct {
	OIDC *OIDC // nil: no identity provider

	path string // empty: no file
	log  *slog.Logger

	mu      sync.Mutex
	tokens  map[[32]byte]Caller
	looked  time.Time
	changed time.Time
}

// reread is how soon a token that was added to or removed from the file counts.
const reread = 5 * time.Second

// OpenAccess reads a file of access tokens, one a line: the SHA-256 of the token
// in hex, a name, and if wanted a role (read or admin; read) and a list of
// agents (ids, or beginnings with a *; all). Lines that begin with # are skipped.
// The file is read again when it changes. An empty path stands for no file.
func OpenAccess(path string, log *slog.Logger) (*Access, error) {
	a := &Access{path: path, log: log}
	if path == "" {
		return a, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read access tokens: %w", err)
	}
	if a.tokens, err = readTokens(path); err != nil {
		return nil, err
	}
	a.looked, a.changed = time.Now(), info.ModTime()
	return a, nil
}

func readTokens(path string) (map[[32]byte]Caller, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read access tokens: %w", err)
	}
	defer f.Close()
	tokens := map[[32]byte]Caller{}
	lines, n := bufio.NewScanner(f), 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		hash, c, err := parseToken(line)
		if err != nil {
			return nil, fmt.Errorf("read access tokens: %s line %d: %w", path, n, err)
		}
		tokens[hash] = c
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read access tokens: %w", err)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("read access tokens: %s has none; make one with `cloud-api access create`", path)
	}
	return tokens, nil
}

var (
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	agentPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$|^[a-z0-9-]{0,62}\*$`)
	errLine      = errors.New("want the SHA-256 of a token in 64 hex digits, a name, and if wanted a role (read or admin) and a list of agents")
)

// parseToken reads one line. Its error does not repeat it: a token may have been
// put there by mistake.
func parseToken(line string) (hash [32]byte, c Caller, err error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || len(fields) > 4 {
		return hash, c, errLine
	}
	sum, err := hex.DecodeString(fields[0])
	if err != nil || len(sum) != sha256.Size || !namePattern.MatchString(fields[1]) {
		return hash, c, errLine
	}
	c = Caller{Name: fields[1], Role: Reader}
	if len(fields) > 2 && fields[2] == "admin" {
		c.Role = Admin
	} else if len(fields) > 2 && fields[2] != "read" {
		return hash, c, errLine
	}
	if len(fields) > 3 && fields[3] != "*" {
		c.Agents = strings.Split(fields[3], ",")
	}
	for _, a := range c.Agents {
		if !agentPattern.MatchString(a) {
			return hash, c, errLine
		}
	}
	return [32]byte(sum), c, nil
}

// NewToken makes an access token and the line of the file that lets it in.
func NewToken(c Caller) (token, line string, err error) {
	role, agents := "read", "*"
	if c.Role == Admin {
		role = "admin"
	}
	if len(c.Agents) > 0 {
		agents = strings.Join(c.Agents, ",")
	}
	token = rand.Text()
	sum := sha256.Sum256([]byte(token))
	line = strings.Join([]string{hex.EncodeToString(sum[:]), c.Name, role, agents}, " ")
	_, _, err = parseToken(line)
	return token, line, err
}

// caller finds out who asks, and refuses who may not.
func (a *Access) caller(c *fiber.Ctx, need Role) (Caller, error) {
	if a == nil {
		return Caller{Role: Admin}, nil
	}
	if need == Anyone {
		return Caller{}, nil
	}
	token, ok := strings.CutPrefix(c.Get(fiber.HeaderAuthorization), "Bearer ")
	var who Caller
	if ok {
		who, ok = a.find(token)
	}
	if !ok {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="holdfast"`)
		return who, problem.New(http.StatusUnauthorized, "want the header Authorization: Bearer TOKEN with a token made by `cloud-api access create`, or by the identity provider if there is one")
	}
	if who.Role < need {
		return who, problem.New(http.StatusForbidden, "this needs a token with the role "+map[Role]string{Reader: "read", Admin: "admin"}[need])
	}
	return who, nil
}

// find looks a token up by its hash, so that the time it takes tells nothing,
// and then asks whether the identity provider made it.
func (a *Access) find(token string) (Caller, bool) {
	sum := sha256.Sum256([]byte(token))
	a.mu.Lock()
	a.refresh()
	c, ok := a.tokens[sum]
	a.mu.Unlock()
	if ok || a.OIDC == nil {
		return c, ok
	}
	ctx, cancel := context.WithTimeout(context.Background(), issuerTime)
	defer cancel()
	c, err := a.OIDC.caller(ctx, token)
	if err != nil {
		a.log.Info("api: access token refused", "error", err)
	}
	return c, err == nil
}

// refresh reads the file again when it changed. A file that is broken or gone
// changes nothing, and is told of; a.mu is held.
func (a *Access) refresh() {
	if a.path == "" || time.Since(a.looked) < reread {
		return
	}
	a.looked = time.Now()
	info, err := os.Stat(a.path)
	if err == nil && info.ModTime().Equal(a.changed) {
		return
	}
	var tokens map[[32]byte]Caller
	if err == nil {
		tokens, err = readTokens(a.path)
	}
	if err != nil {
		var pe *fs.PathError
		a.log.Error("api: access tokens cannot be read again, the old ones go on", "missing", errors.As(err, &pe), "error", err)
		return
	}
	a.tokens, a.changed = tokens, info.ModTime()
	a.log.Info("api: access tokens read again", "tokens", len(tokens))
}
