package agent

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// systemd tells the service manager that the agent is ready, stops, and lives.
type systemd struct {
	socket   string        // of NOTIFY_SOCKET; empty: there is no service manager
	watchdog time.Duration // within which it wants to hear something; 0: it does not
	alive    func()        // returns while the agent can do its work, and hangs with it
	log      *slog.Logger
}

// newSystemd reads what the service manager put into the environment.
func newSystemd(getenv func(string) string, alive func(), log *slog.Logger) *systemd {
	s := &systemd{socket: getenv("NOTIFY_SOCKET"), alive: alive, log: log}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		s.watchdog = time.Duration(usec) * time.Microsecond
	}
	return s
}

// Run says READY, feeds the watchdog twice in its time, and says STOPPING when
// ctx ends. A manager that cannot be reached is no reason to stop.
func (s *systemd) Run(ctx context.Context) error {
	s.say("READY=1")
	defer s.say("STOPPING=1")
	if s.watchdog == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(s.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.alive()
			s.say("WATCHDOG=1")
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *systemd) say(text string) {
	if s.socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", s.socket) // a leading @ is an abstract socket, to Go as to systemd
	if err == nil {
		_, err = conn.Write([]byte(text))
		_ = conn.Close() // a datagram has gone or not by now
	}
	if err != nil {
		s.log.Warn("systemd not told", "message", text, "error", err)
	}
}
