package uplink

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is appended reaches the cloud within half a second, and is then trimmed.
func TestReadingsArriveAndAreTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.run()
		defer w.stop()
		for range 100 {
			w.box.readings(10, 100)
			time.Sleep(100 * time.Millisecond)
		}
		w.settle(500 * time.Millisecond)
	})
}

// While the broker is away nothing is lost, and everything follows when it is back.
func TestAnOutageLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.run()
		defer func() { w.stop() }()
		w.lock(func() { w.bad.cut = true })
		for range 600 {
			w.box.readings(100, 100)
			time.Sleep(time.Second)
		}
		w.lock(func() { w.bad.cut = false })
		w.settle(2 * time.Minute)
	})
}
