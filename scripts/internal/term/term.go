// Package term draws lines for people: events that stay, and one line at the
// bottom that is drawn over again where the output is a terminal.
package term

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Screen writes events and a status line. It may be used by several goroutines.
type Screen struct {
	out   io.Writer
	tty   bool
	start time.Time

	mu     sync.Mutex
	status string
}

// New returns a screen on f; its seconds count from now.
func New(f *os.File) *Screen {
	return &Screen{out: f, tty: IsTerminal(f), start: time.Now()}
}

// IsTerminal reports whether f is a device that draws characters.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
}

// TTY reports whether lines can be drawn over.
func (s *Screen) TTY() bool { return s.tty }

// Restart makes the seconds count from now.
func (s *Screen) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = time.Now()
}

// Event prints a line that stays, after the seconds since the start.
func (s *Screen) Event(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintf(s.out, "%6.1f s  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
	s.draw()
}

// Print prints text that stays, as it is.
func (s *Screen) Print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprint(s.out, text)
	s.draw()
}

// Status replaces the line at the bottom; empty removes it. Where lines cannot
// be drawn over it prints nothing: use Event now and then.
func (s *Screen) Status(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	s.status = fmt.Sprintf(format, args...)
	s.draw()
}

// Write lets others draw, such as the progress of a build.
func (s *Screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *Screen) clear() {
	if s.tty && s.status != "" {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
}

func (s *Screen) draw() {
	if s.tty && s.status != "" {
		fmt.Fprint(s.out, s.status)
	}
}

// Count writes a number in groups of three digits.
func Count[N ~int | ~int64 | ~uint64](n N) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}
