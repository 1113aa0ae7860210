package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// The values of the roles claim that count.
const (
	oidcReader = "holdfast-read"
	oidcAdmin  = "holdfast-admin"
)

const (
	// keysAge is how long an issuer's keys are used before they are asked for
	// again, and keysGap how soon a token with an unknown key may ask.
	keysAge = time.Hour
	keysGap = 30 * time.Second
	// leeway is how far the clocks of issuer and cloud may differ.
	leeway = 30 * time.Second
	// maxDocument bounds what an issuer answers.
	maxDocument = 1 << 20
	// issuerTime bounds a question to the issuer.
	issuerTime = 5 * time.Second
)

// errToken is returned for a token that is not good; its text is for the log.
var errToken = errors.New("access token")

// OIDC lets in who carries an access token of an identity provider: a JWT for
// our audience, signed by a key that the issuer publishes, with a role.
type OIDC struct {
	issuer, audience, roles, agents string
	client                          *http.Client
	now                             func() time.Time

	asking sync.Mutex // held by who asks the issuer
	mu     sync.Mutex
	keys   jose.JSONWebKeySet
	asked  time.Time // when the issuer last answered, or did not
}

// OIDCOptions says whose tokens are taken. Claims are named by the provider.
type OIDCOptions struct {
	Issuer      string // https://…; its keys are found by OpenID discovery
	Audience    string
	RolesClaim  string // a text or a list with holdfast-read or holdfast-admin
	AgentsClaim string // a list of agents, or beginnings with a *; none: all

	Now func() time.Time // nil: time.Now
}

// NewOIDC returns an OIDC that asks the issuer when the first token comes.
func NewOIDC(o OIDCOptions) *OIDC {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &OIDC{issuer: o.Issuer, audience: o.Audience, roles: o.RolesClaim, agents: o.AgentsClaim, client: &http.Client{Timeout: issuerTime}, now: o.Now}
}

// algorithms are those with a public key: a shared secret would let the cloud
// make tokens.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// caller returns whose token it is.
func (o *OIDC) caller(ctx context.Context, token string) (Caller, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return Caller{}, fmt.Errorf("%w: no JWT with an allowed algorithm", errToken)
	}
	key, err := o.key(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return Caller{}, err
	}
	var claims jwt.Claims
	var all map[string]any
	if err := parsed.Claims(key, &claims, &all); err != nil {
		return Caller{}, fmt.Errorf("%w: %w", errToken, err)
	}
	expected := jwt.Expected{Issuer: o.issuer, AnyAudience: jwt.Audience{o.audience}, Time: o.now()}
	if err := claims.ValidateWithLeeway(expected, leeway); err != nil {
		return Caller{}, fmt.Errorf("%w: %w", errToken, err)
	}
	if claims.Expiry == nil || claims.Subject == "" {
		return Caller{}, fmt.Errorf("%w: it never expires, or names nobody", errToken)
	}
	return o.grant(claims.Subject, all)
}

// grant reads what the claims allow.
func (o *OIDC) grant(subject string, claims map[string]any) (Caller, error) {
	c := Caller{Name: "oidc " + subject}
	for _, r := range texts(claims[o.roles]) {
		switch r {
		case oidcAdmin:
			c.Role = Admin
		case oidcReader:
			c.Role = max(c.Role, Reader)
		}
	}
	if v, ok := claims[o.agents]; ok {
		c.Agents = texts(v)
		if len(c.Agents) == 0 {
			return c, fmt.Errorf("%w: its claim %s is no list of agents", errToken, o.agents)
		}
	}
	return c, nil
}

// texts takes a text with spaces or a list of texts.
func texts(v any) (out []string) {
	switch x := v.(type) {
	case string:
		return strings.Fields(x)
	case []any:
		for _, item := range x {
			if s, ok := item.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// key finds a key of the issuer, asking for its keys when they are old or lack
// this one. While one asks, who has a key goes on with it and the others wait.
func (o *OIDC) key(ctx context.Context, id string) (*jose.JSONWebKey, error) {
	found, ask := o.known(id)
	switch {
	case !ask:
	case len(found) == 0:
		o.asking.Lock()
		err := o.ask(ctx, id)
		o.asking.Unlock()
		if err != nil {
			return nil, err
		}
		found, _ = o.known(id)
	case o.asking.TryLock():
		err := o.ask(ctx, id)
		o.asking.Unlock()
		if err == nil { // a key that the issuer withdrew counts no more
			found, _ = o.known(id)
		}
	}
	if len(found) != 1 || !found[0].IsPublic() || !found[0].Valid() {
		return nil, fmt.Errorf("%w: signed by a key that the issuer does not publish", errToken)
	}
	return &found[0], nil
}

// known returns the keys of a name, and whether the issuer is to be asked.
func (o *OIDC) known(id string) (found []jose.JSONWebKey, ask bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	found = o.keys.Key(id)
	age := o.now().Sub(o.asked)
	return found, len(found) == 0 && age > keysGap || age > keysAge
}

// ask reads the issuer's keys anew, unless somebody just did; o.asking is held.
func (o *OIDC) ask(ctx context.Context, id string) error {
	if _, ask := o.known(id); !ask {
		return nil
	}
	keys, err := o.fetch(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = o.now()
	if err != nil {
		return fmt.Errorf("keys of %s: %w", o.issuer, err)
	}
	o.keys = keys
	return nil
}

func (o *OIDC) fetch(ctx context.Context) (keys jose.JSONWebKeySet, err error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := o.get(ctx, strings.TrimSuffix(o.issuer, "/")+"/.well-known/openid-configuration", &discovery); err != nil {
		return keys, err
	}
	if discovery.Issuer != o.issuer {
		return keys, fmt.Errorf("the issuer calls itself %q", discovery.Issuer)
	}
	if !SafeURL(discovery.Keys) {
		return keys, errors.New("its keys are not at an https address")
	}
	return keys, o.get(ctx, discovery.Keys, &keys)
}

func (o *OIDC) get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", address, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into)
}

// SafeURL reports whether nobody on the way can change what is read from the
// address: https, or this machine.
func SafeURL(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return false
	}
	h := u.Hostname()
	return u.Scheme == "https" || u.Scheme == "http" && (h == "127.0.0.1" || h == "::1" || h == "localhost")
}
