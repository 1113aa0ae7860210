package device_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/device"
)

// All series of a metric count, those of another whose name begins alike do not, and one that is not there is an error.
func TestMetricSumsItsSeries(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE a counter\na{lane=\"live\"} 2\na{lane=\"backlog\"} 3.5\na_total 100\n")
	}))
	defer s.Close()
	if n, err := device.Metric(t.Context(), s.URL, "a"); err != nil || n != 5.5 {
		t.Errorf("got %v, %v", n, err)
	}
	if _, err := device.Metric(t.Context(), s.URL, "b"); err == nil {
		t.Error("a metric that is not there was found")
	}
}
