package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/agent"
	"github.com/holdfast-edge/holdfast/edge-agent/internal/config"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

const enrollHelp = `Makes the agent known to a cloud and pins that cloud's root key. A running agent
notices within seconds. Get a token with: cloud-api token create

  edge-agent enroll --url https://cloud.example --token-file token

Without a network between the two, carry two files (the token's secret is in neither):

  edge-agent enroll --token-file token --request-file request.json
  curl --json @request.json https://cloud.example/v1/enrol > response.json
  edge-agent enroll --token-file token --request-file request.json --response-file response.json`

type enrolment struct {
	config, url, token, tokenFile, request, response string
}

func enroll(ctx context.Context, e *Env, args []string) error {
	var o enrolment
	f := e.flags("enroll", enrollHelp)
	f.StringVar(&o.config, "config", "", "settings `FILE` (YAML)")
	f.StringVar(&o.url, "url", "", "the cloud's public `URL`; without it, enrol.url")
	f.StringVar(&o.token, "token", "", "enrolment `TOKEN`; other users of this machine can see it: --token-file is better")
	f.StringVar(&o.tokenFile, "token-file", "", "`FILE` with the token; without it, enrol.token_file")
	f.StringVar(&o.request, "request-file", "", "`FILE` to write the request to, or with --response-file to read it from")
	f.StringVar(&o.response, "response-file", "", "`FILE` with the cloud's answer to the request")
	if err := f.parse(args, 0); err != nil {
		return err
	}
	c, _, err := e.load(o.config)
	if err != nil {
		return err
	}
	tok, err := o.readToken(c)
	if err != nil {
		return usageError{err}
	}
	return o.run(ctx, e, c, tok)
}

func (o *enrolment) run(ctx context.Context, e *Env, c config.Config, tok telemetry.Token) error {
	if o.url == "" {
		o.url = c.Enrol.URL
	}
	var got agent.Enrolment
	var err error
	switch {
	case o.response != "":
		got, err = o.accept(c, tok)
	case o.request != "":
		return o.writeRequest(e, c, tok)
	case o.url == "":
		return wrong("want --url, or --request-file; see enroll --help")
	default:
		got, err = agent.Enrol(ctx, c.Data, c.Agent, o.url, tok)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Stdout, "%s is enrolled with cloud %s, root key %s\n", got.Agent, got.Cloud, telemetry.Fingerprint(got.Root))
	return err
}

func (o *enrolment) readToken(c config.Config) (telemetry.Token, error) {
	path := o.tokenFile
	switch {
	case o.token != "" && path != "":
		return telemetry.Token{}, errors.New("want --token or --token-file, not both")
	case o.token != "":
		return telemetry.ParseToken(o.token)
	case path == "":
		path = c.Enrol.TokenFile
	}
	if path == "" {
		return telemetry.Token{}, errors.New("want --token-file; get a token with `cloud-api token create`")
	}
	text, err := readSecret(path)
	if err != nil {
		return telemetry.Token{}, fmt.Errorf("read token: %w", err)
	}
	return telemetry.ParseToken(text)
}

func (o *enrolment) writeRequest(e *Env, c config.Config, tok telemetry.Token) error {
	req, err := agent.Request(c.Data, c.Agent, tok)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(req, "", "  ")
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	if err := os.WriteFile(o.request, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	_, err = fmt.Fprintf(e.Stdout, "wrote %s; post it to the cloud's /v1/enrol, then give the answer with --response-file\n", o.request)
	return err
}

func (o *enrolment) accept(c config.Config, tok telemetry.Token) (agent.Enrolment, error) {
	if o.request == "" {
		return agent.Enrolment{}, wrong("--response-file wants the --request-file that it answers")
	}
	text, err := os.ReadFile(o.request)
	if err != nil {
		return agent.Enrolment{}, fmt.Errorf("read request: %w", err)
	}
	req, err := telemetry.ParseEnrolRequest(text)
	if err != nil {
		return agent.Enrolment{}, fmt.Errorf("read request: %w", err)
	}
	answer, err := os.ReadFile(o.response)
	if err != nil {
		return agent.Enrolment{}, fmt.Errorf("read response: %w", err)
	}
	return agent.Accept(c.Data, tok, req, answer)
}
