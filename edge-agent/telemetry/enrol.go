package telemetry

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrEnrol is returned, wrapped with what is wrong, for an enrolment request or
// response that is malformed, belongs to another one, or does not prove what it must.
var ErrEnrol = errors.New("enrolment")

// The domains of what an enrolment signs and authenticates.
const (
	enrolMACDomain      = "holdfast/enrol-mac/1"
	enrolRequestDomain  = "holdfast/enrol-request/1"
	enrolResponseDomain = "holdfast/enrol/1"
)

// nonceSize is the length of an enrolment's nonce in bytes.
const nonceSize = 16

// EnrolRequest asks the cloud to know an agent by its public key. It travels as
// JSON over HTTP or in a file: the token's secret is not in it, only the proof of
// having it.
type EnrolRequest struct {
	TokenID   string            `json:"token_id"`
	Agent     string            `json:"agent"`
	PublicKey ed25519.PublicKey `json:"public_key"`
	Nonce     []byte            `json:"nonce"`
	MAC       []byte            `json:"mac"`       // HMAC-SHA256 under SHA-256(secret) of token id, agent, public key and nonce
	Signature []byte            `json:"signature"` // by the agent's key, over all of the above
}

// EnrolResponse tells the device the root key to pin.
type EnrolResponse struct {
	Cloud     string            `json:"cloud"`
	Agent     string            `json:"agent"`
	Root      ed25519.PublicKey `json:"root"`
	Nonce     []byte            `json:"nonce"`     // of the request
	Signature []byte            `json:"signature"` // by the root, over all of the above and the agent's public key
}

// NewEnrolRequest makes a request for the holder of key to be known as agent.
func NewEnrolRequest(tok Token, agent string, key ed25519.PrivateKey) (EnrolRequest, error) {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails: it would end the process
	r := EnrolRequest{TokenID: tok.ID, Agent: agent, PublicKey: public(key), Nonce: nonce}
	r.MAC = r.mac(tok.SecretHash())
	r.Signature = sign(key, enrolRequestDomain, r.parts()...)
	return r, r.check()
}

// ParseEnrolRequest reads a request from JSON of at most MaxEnrol bytes. What it
// returns is well-formed, and proves nothing before Verify. It returns ErrEnrol.
func ParseEnrolRequest(b []byte) (EnrolRequest, error) {
	var r EnrolRequest
	if err := parseEnrol(b, &r); err != nil {
		return EnrolRequest{}, err
	}
	return r, r.check()
}

// Verify returns ErrEnrol unless the request was made with the secret whose
// SHA-256 is given, and by the holder of its public key.
func (r EnrolRequest) Verify(secretHash [32]byte) error {
	if err := r.check(); err != nil {
		return err
	}
	if !hmac.Equal(r.MAC, r.mac(secretHash)) {
		return fmt.Errorf("%w: the token's secret is another", ErrEnrol)
	}
	if !verify(r.PublicKey, r.Signature, enrolRequestDomain, r.parts()...) {
		return fmt.Errorf("%w: %w", ErrEnrol, ErrSignature)
	}
	return nil
}

func (r EnrolRequest) check() error {
	if err := ValidateAgent(r.Agent); err != nil {
		return fmt.Errorf("%w: %w", ErrEnrol, err)
	}
	switch {
	case r.TokenID == "" || len(r.TokenID) > MaxToken:
		return fmt.Errorf("%w: token id of %d bytes", ErrEnrol, len(r.TokenID))
	case len(r.PublicKey) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: public key of %d bytes", ErrEnrol, len(r.PublicKey))
	case len(r.Nonce) != nonceSize:
		return fmt.Errorf("%w: nonce of %d bytes", ErrEnrol, len(r.Nonce))
	}
	return nil
}

func (r EnrolRequest) mac(secretHash [32]byte) []byte {
	h := hmac.New(sha256.New, secretHash[:])
	d := digest(enrolMACDomain, []byte(r.TokenID), []byte(r.Agent), r.PublicKey, r.Nonce)
	h.Write(d[:])
	return h.Sum(nil)
}

func (r EnrolRequest) parts() [][]byte {
	return [][]byte{[]byte(r.TokenID), []byte(r.Agent), r.PublicKey, r.Nonce, r.MAC}
}

// NewEnrolResponse answers a request that was verified.
func NewEnrolResponse(cloud string, req EnrolRequest, root ed25519.PrivateKey) (EnrolResponse, error) {
	r := EnrolResponse{Cloud: cloud, Agent: req.Agent, Root: public(root), Nonce: req.Nonce}
	r.Signature = sign(root, enrolResponseDomain, r.parts(req)...)
	return r, r.check()
}

// ParseEnrolResponse reads a response from JSON of at most MaxEnrol bytes. What
// it returns proves nothing before Verify. It returns ErrEnrol.
func ParseEnrolResponse(b []byte) (EnrolResponse, error) {
	var r EnrolResponse
	if err := parseEnrol(b, &r); err != nil {
		return EnrolResponse{}, err
	}
	return r, r.check()
}

// Verify returns the root key to pin. It returns ErrEnrol unless the response
// answers req and the root key is the one that the token names.
func (r EnrolResponse) Verify(tok Token, req EnrolRequest) (ed25519.PublicKey, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	switch {
	case r.Agent != req.Agent || !hmac.Equal(r.Nonce, req.Nonce):
		return nil, fmt.Errorf("%w: the answer to another request", ErrEnrol)
	case Fingerprint(r.Root) != tok.Fingerprint:
		return nil, fmt.Errorf("%w: root key %s, the token names %s", ErrEnrol, Fingerprint(r.Root), tok.Fingerprint)
	case !verify(r.Root, r.Signature, enrolResponseDomain, r.parts(req)...):
		return nil, fmt.Errorf("%w: %w", ErrEnrol, ErrSignature)
	}
	return r.Root, nil
}

func (r EnrolResponse) check() error {
	switch {
	case r.Cloud == "" || len(r.Cloud) > MaxCloud:
		return fmt.Errorf("%w: cloud id of %d bytes", ErrEnrol, len(r.Cloud))
	case len(r.Root) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: root key of %d bytes", ErrEnrol, len(r.Root))
	}
	return nil
}

func (r EnrolResponse) parts(req EnrolRequest) [][]byte {
	return [][]byte{[]byte(r.Cloud), []byte(r.Agent), r.Root, req.PublicKey, r.Nonce}
}

func parseEnrol(b []byte, v any) error {
	if len(b) > MaxEnrol {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrEnrol, len(b), MaxEnrol)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrEnrol, err)
	}
	return nil
}
