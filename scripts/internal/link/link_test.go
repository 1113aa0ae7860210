package link

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// A healthy link carries bytes both ways and counts them, once they are written.
func TestLinkCarries(t *testing.T) {
	l := open(t)
	c := dial(t, l)
	expectEcho(t, c, "hello")
	want := Stats{Connections: 1, Up: 6, Down: 6}
	// An echo can be read a moment before the link counts what it wrote.
	for end := time.Now().Add(5 * time.Second); l.Stats() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("stats = %+v, want %+v", l.Stats(), want)
		}
	}
}

// A cut resets what exists and refuses what is new; healed, the same address works again.
func TestCutAndHeal(t *testing.T) {
	l := open(t)
	c := dial(t, l)
	expectEcho(t, c, "before")
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("the old connection lives on: %v", err)
	}
	if n, err := net.Dial("tcp", l.Addr()); err == nil {
		_ = n.Close()
		t.Fatal("a new connection was accepted")
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	expectEcho(t, dial(t, l), "after")
}

// A silent link keeps the connection and delivers after healing what was written meanwhile.
func TestSilentLinkHoldsBytesBack(t *testing.T) {
	l := open(t)
	c := dial(t, l)
	expectEcho(t, c, "before")
	if err := l.Set(Condition{Silent: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("held\n")); err != nil {
		t.Fatal(err)
	}
	late := dial(t, l) // accepted, and served only later
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatalf("read through a silent link: %v", err)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != "held\n" {
		t.Fatalf("after healing: %q, %v", got, err)
	}
	expectEcho(t, late, "late")
}

// Bandwidth and latency are what was asked for, from below.
func TestSlowLinkIsSlow(t *testing.T) {
	l := open(t)
	c := dial(t, l)
	expectEcho(t, c, "x")
	if err := l.Set(Condition{Latency: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	expectEcho(t, c, "round")
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Fatalf("a round trip over 2 × 50 ms took %v", took)
	}
	if err := l.Set(Condition{BytesPerSecond: 100 << 10}); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	line := make([]byte, 20<<10)
	for i := range line {
		line[i] = 'a'
	}
	expectEcho(t, c, string(line))
	// 20 KiB at 100 KiB/s, each way, the second overlapping the first.
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Fatalf("20 KiB at 100 KiB/s took %v", took)
	}
}

// A flapping link is healed when flapping ends, and Close ends everything.
func TestFlapLeavesTheLinkHealed(t *testing.T) {
	l := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if err := l.Flap(ctx, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	c := dial(t, l)
	expectEcho(t, c, "up")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("a connection outlived Close: %v", err)
	}
	if err := l.Heal(); err == nil {
		t.Fatal("a closed link was healed")
	}
}

func open(t *testing.T) *Link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go echo(ln)
	l, err := Listen("127.0.0.1:0", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func echo(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func expectEcho(t *testing.T, c net.Conn, line string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line+"\n" {
		t.Fatalf("echo of %d bytes: %v", len(line), err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
