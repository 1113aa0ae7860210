package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	st "github.com/holdfast-edge/holdfast/edge-agent/internal/status"
)

const statusHelp = `Asks the running agent how it is. Exit code 0: it takes readings and stores them;
1: it does not, or does not answer. A cloud that is away is no fault of the agent.`

// maxStatus bounds what is read from whatever answers there.
const maxStatus = 1 << 20

func status(ctx context.Context, e *Env, args []string) error {
	f := e.flags("status", statusHelp)
	path := f.String("config", "", "settings `FILE` (YAML), for status.listen")
	address := f.String("address", "", "`HOST:PORT` to ask instead of status.listen")
	raw := f.Bool("json", false, "print the JSON of /v1/status")
	if err := f.parse(args, 0); err != nil {
		return err
	}
	if *address == "" {
		c, _, err := e.load(*path)
		if err != nil {
			return err
		}
		*address = c.Status.Listen
	}
	text, err := fetch(ctx, "http://"+*address+"/v1/status")
	if err != nil {
		return fmt.Errorf("ask agent (is it running?): %w", err)
	}
	var r st.Report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read answer of %s: %w", *address, err)
	}
	if *raw {
		_, err = e.Stdout.Write(text)
	} else {
		err = table(e.Stdout, &r)
	}
	if err == nil && !r.Ready {
		return errShown
	}
	return err
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxStatus))
}

func table(w io.Writer, r *st.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	ready := "ready"
	if !r.Ready {
		ready = "NOT READY"
	}
	_, _ = fmt.Fprintf(t, "%s\t%s\tversion %s, epoch %s, up %s\n", r.Agent, ready, r.Version, r.Epoch, short(r.Uptime))
	for _, p := range r.Parts {
		_, _ = fmt.Fprintf(t, "\t\t\n%s\t%s\t%s\n", p.Name, p.State, p.Note)
		for _, f := range p.Facts {
			_, _ = fmt.Fprintf(t, "  %s\t%s\t\n", f.Label, show(f))
		}
	}
	return t.Flush() // tells what the writes above could not
}

func show(f st.Fact) string {
	n, isNumber := f.Value.(float64)
	switch {
	case f.Value == nil || f.Value == "":
		return "-"
	case isNumber && f.Unit == st.Bytes:
		return bytesText(n)
	case isNumber && f.Unit == st.Seconds:
		return short(n)
	case isNumber && f.Unit == st.Count:
		return grouped(int64(n))
	case f.Value == true:
		return "yes"
	case f.Value == false:
		return "no"
	}
	return fmt.Sprint(f.Value)
}

func short(seconds float64) string {
	if seconds < 0 {
		return "unknown"
	}
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 2*time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

func bytesText(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}

// grouped puts a space between thousands.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
