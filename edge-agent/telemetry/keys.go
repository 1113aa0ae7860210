package telemetry

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// ErrToken is returned by ParseToken for text that is not an enrolment token.
var ErrToken = errors.New("enrolment token: want ID.SECRET.FINGERPRINT")

// ErrCertificate is returned for a chain of certificates that does not lead from
// the receipt key to the pinned root, or is not valid at that time.
var ErrCertificate = errors.New("certificate")

// certificateDomain keeps a certificate's signature from being taken for
// anything else's.
const certificateDomain = "holdfast/certificate/1"

// Role says what a certified key may sign.
type Role uint8

// The roles. Their numbers are part of the wire format.
const (
	RoleRoot    Role = 1 // certificates
	RoleReceipt Role = 2 // receipts
)

// Certificate is one key vouched for by another: a root vouches for receipt
// keys, and the root before it for the new root.
type Certificate struct {
	Role      Role
	Key       ed25519.PublicKey
	NotBefore time.Time // whole seconds, UTC
	NotAfter  time.Time
	Issuer    string // Fingerprint of the key that signed
	Signature []byte
}

// NewCertificate vouches with issuer for key. Times are cut to whole seconds.
func NewCertificate(role Role, key ed25519.PublicKey, notBefore, notAfter time.Time, issuer ed25519.PrivateKey) (Certificate, error) {
	c := Certificate{
		Role: role, Key: key, Issuer: Fingerprint(public(issuer)),
		NotBefore: time.Unix(notBefore.Unix(), 0).UTC(), NotAfter: time.Unix(notAfter.Unix(), 0).UTC(),
	}
	if err := c.check(); err != nil {
		return Certificate{}, err
	}
	c.Signature = sign(issuer, certificateDomain, c.content())
	return c, nil
}

// Verify returns ErrCertificate unless issuer vouches for the key at now. A zero
// now means that the clock is not to be trusted: the times are not looked at.
func (c Certificate) Verify(issuer ed25519.PublicKey, now time.Time) error {
	switch {
	case c.Issuer != Fingerprint(issuer) || !verify(issuer, c.Signature, certificateDomain, c.content()):
		return fmt.Errorf("%w: not signed by %s", ErrCertificate, Fingerprint(issuer))
	case now.IsZero():
		return nil
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: not valid before %s", ErrCertificate, c.NotBefore.Format(time.RFC3339))
	case now.After(c.NotAfter):
		return fmt.Errorf("%w: not valid after %s", ErrCertificate, c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// verifyChain returns the receipt key that chain certifies: its own certificate
// comes first, then that of each issuer, up to one that root issued. What follows
// is for devices that pinned an older root.
func verifyChain(chain []Certificate, root ed25519.PublicKey, now time.Time) (ed25519.PublicKey, error) {
	pinned := Fingerprint(root)
	for i, c := range chain {
		want := RoleRoot
		if i == 0 {
			want = RoleReceipt
		}
		if c.Role != want {
			return nil, fmt.Errorf("%w: role %d at place %d, want %d", ErrCertificate, c.Role, i, want)
		}
		if c.Issuer == pinned {
			return chain[0].Key, c.Verify(root, now)
		}
		if i+1 == len(chain) {
			break
		}
		if err := c.Verify(chain[i+1].Key, now); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: no way from the receipt key to the root %s", ErrCertificate, pinned)
}

func (c Certificate) check() error {
	switch {
	case c.Role != RoleRoot && c.Role != RoleReceipt:
		return fmt.Errorf("%w: role %d", ErrCertificate, c.Role)
	case len(c.Key) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: key of %d bytes", ErrCertificate, len(c.Key))
	case len(c.issuer()) != sha256.Size:
		return fmt.Errorf("%w: issuer %.64q", ErrCertificate, c.Issuer)
	}
	return nil
}

// content returns what is signed.
func (c Certificate) content() []byte {
	b := append([]byte{byte(c.Role)}, c.Key...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.NotBefore.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(c.NotAfter.Unix()))
	return append(b, c.issuer()...)
}

func (c Certificate) issuer() []byte {
	b, err := base32Text.DecodeString(c.Issuer)
	if err != nil {
		return nil
	}
	return b
}

func (c Certificate) wire() *wire.Certificate {
	return &wire.Certificate{
		Role: uint32(c.Role), Key: c.Key, Issuer: c.issuer(), Signature: c.Signature,
		NotBefore: c.NotBefore.Unix(), NotAfter: c.NotAfter.Unix(),
	}
}

func certificateOf(w *wire.Certificate) (Certificate, error) {
	c := Certificate{
		Role: Role(min(w.Role, 255)), Key: w.Key, Issuer: base32Text.EncodeToString(w.Issuer), Signature: w.Signature,
		NotBefore: time.Unix(w.NotBefore, 0).UTC(), NotAfter: time.Unix(w.NotAfter, 0).UTC(),
	}
	return c, c.check()
}

// base32Text survives being read aloud, typed and put into a file name.
var base32Text = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Fingerprint returns what a public key is known by: lower-case base32 without
// padding of its SHA-256, 52 characters.
func Fingerprint(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return base32Text.EncodeToString(sum[:])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey {
	return key.Public().(ed25519.PublicKey)
}

// Token lets a device enrol: the id and the secret prove it to the cloud, the
// fingerprint proves the cloud to the device. Its text is a secret.
type Token struct {
	ID          string // 1 to 64 of a-z, 0-9 and -
	Secret      string // 16 to 128 of a-z, 0-9 and -
	Fingerprint string // of the cloud's root key
}

var tokenPattern = regexp.MustCompile(`^[a-z0-9-]{1,64}\.[a-z0-9-]{16,128}\.[a-z2-7]{52}$`)

// NewToken returns a token with a random id and 160 random bits of secret.
func NewToken(root ed25519.PublicKey) Token {
	b := make([]byte, 25)
	rand.Read(b) // never fails: it would end the process
	return Token{ID: base32Text.EncodeToString(b[:5]), Secret: base32Text.EncodeToString(b[5:]), Fingerprint: Fingerprint(root)}
}

// ParseToken reads what Token.String wrote. Its error, ErrToken, does not repeat
// the text.
func ParseToken(s string) (Token, error) {
	if len(s) > MaxToken || !tokenPattern.MatchString(s) {
		return Token{}, ErrToken
	}
	part := strings.Split(s, ".")
	return Token{ID: part[0], Secret: part[1], Fingerprint: part[2]}, nil
}

// String returns the token's text, which must not be logged: slog and fmt are
// given the id alone.
func (t Token) String() string { return t.ID + "." + t.Secret + "." + t.Fingerprint }

// LogValue returns the token's id.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.ID) }

// Format writes the token's id, whatever the verb: an error or a log line that has
// the token in it does not give its secret away.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "token "+t.ID) }

// SecretHash returns what the cloud keeps of the secret.
func (t Token) SecretHash() [32]byte { return sha256.Sum256([]byte(t.Secret)) }
