package memory

import (
	"os"
	"strings"
	"testing"
)

// The program goes on after its own pages were given back, and has fewer of them.
func TestReleaseProgramGivesPagesBack(t *testing.T) {
	before := resident(t)
	n, err := releaseProgram()
	if err != nil {
		t.Fatal(err)
	}
	after := resident(t)
	if n == 0 || after >= before {
		t.Errorf("gave back %d bytes: resident before %d, after %d, want less", n, before, after)
	}
}

// A mapping that can be written, or whose pages were changed, is never given back: its contents are nowhere else.
func TestMappingsTellWhatMayGo(t *testing.T) {
	ms := mappings(strings.Join([]string{
		"00400000-00500000 r-xp 00000000 fe:00 12 /bin/daprd", "Rss:  100 kB", "Anonymous:  0 kB", "VmFlags: rd ex mr",
		"00600000-00700000 r--p 00000000 fe:00 12 /bin/daprd", "Rss:  8 kB", "Anonymous:  4 kB",
		"00800000-00900000 rw-p 00000000 fe:00 12 /bin/daprd", "Rss:  8 kB", "Anonymous:  0 kB",
		"00a00000-00b00000 rw-p 00000000 00:00 0", "Rss:  8 kB",
	}, "\n"))
	if len(ms) != 4 {
		t.Fatalf("got %d mappings, want 4", len(ms))
	}
	for i, want := range []bool{true, false, false, false} {
		if got := ms[i].readOnly && !ms[i].changed && ms[i].path == "/bin/daprd"; got != want {
			t.Errorf("mapping %d may go: got %v, want %v", i, got, want)
		}
	}
	if ms[0].start != 0x400000 || ms[0].end != 0x500000 || ms[0].resident != 100<<10 {
		t.Errorf("got %+v", ms[0])
	}
}

func resident(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skipf("SKIP: no smaps on this system: %v", err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mappings(string(b)) {
		if m.path == exe && m.readOnly {
			n += m.resident
		}
	}
	return n
}
