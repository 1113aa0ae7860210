package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-edge/holdfast/edge-agent/internal/intake"
)

const userHelp = `Lets an MQTT client in by name and password, or gives it a new password. The
password is the first line of standard input; the file keeps only its bcrypt hash.
A running agent notices by itself.

  edge-agent user add --file /etc/holdfast/users greenhouse-sensors < password
  edge-agent user add --file /etc/holdfast/users greenhouse-sensors   (type it, then Enter)`

func user(_ context.Context, e *Env, args []string) error {
	f := e.flags("user add", userHelp)
	path := f.String("file", "", "the `FILE` that intake.mqtt.users_file names")
	if len(args) > 0 && args[0] == "add" {
		args = args[1:]
	} else if len(args) == 0 || args[0] != "--help" && args[0] != "-h" {
		return wrong("want edge-agent user add --file FILE NAME")
	}
	if err := f.parse(args, 1); err != nil {
		return err
	}
	if *path == "" {
		return wrong("want --file")
	}
	password, err := bufio.NewReader(io.LimitReader(e.Stdin, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read password: %w", err)
	}
	if err := intake.SetUser(*path, f.Arg(0), []byte(trimEnd(password))); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Stdout, "%s may connect\n", f.Arg(0))
	return err
}
