package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// scalable tells why the autoscaler cannot be tried.
func scalable(t *test) string {
	switch {
	case t.dsn == "":
		return "--production: not given"
	case !t.metrics:
		return "the cluster serves no metrics.k8s.io"
	}
	return ""
}

// hasMetrics reports whether metrics-server, or something like it, is there.
func hasMetrics(ctx context.Context) bool {
	_, err := kubectl(ctx, "get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes")
	return err == nil
}

const readers = 4

// autoscale keeps one replica busy with reading until the autoscaler asks for more than there were, and waits until it takes them back.
func autoscale(ctx context.Context, t *test) (string, error) {
	before, err := desired(ctx)
	if err != nil {
		return "", err
	}
	var most int
	grown := t.whileReading(ctx, func() error {
		return until(ctx, 4*time.Minute, "more replicas", func() error {
			n, err := desired(ctx)
			if most = max(most, n); err == nil && n <= before {
				err = fmt.Errorf("%d are desired: %s", n, hpaState(ctx))
			}
			return err
		})
	})
	if grown != nil {
		return "", grown
	}
	if _, err := settled(ctx, cloudHalf); err != nil {
		return "", err
	}
	err = until(ctx, 5*time.Minute, "fewer replicas", func() error {
		n, err := desired(ctx)
		if most = max(most, n); err == nil && n > before {
			err = fmt.Errorf("%d are desired: %s", n, hpaState(ctx))
		}
		return err
	})
	return fmt.Sprintf("%d replicas, %d while busy, %d again", before, most, before), err
}

// whileReading runs f while several readers page through everything that is stored.
func (t *test) whileReading(ctx context.Context, f func() error) error {
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = t.readEverything(ctx) // forwarding ends when its pod does; the next turn finds another
				pause(ctx, 100*time.Millisecond)
			}
		})
	}
	err := f()
	stop()
	all.Wait()
	return err
}

func (t *test) readEverything(ctx context.Context) error {
	return forward(ctx, cloudNamespace, "service/cloud-api", "8080", func(ctx context.Context, address string) error {
		client := http.Client{Transport: bearer(t.access)}
		for {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v1/readings?limit=10000", nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil {
				return err
			}
		}
	})
}

func desired(ctx context.Context) (int, error) {
	text, err := kubectl(ctx, "-n", cloudNamespace, "get", "deployment/cloud-api", "-o", "jsonpath={.spec.replicas}")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// hpaState is what the autoscaler says about itself, for errors.
func hpaState(ctx context.Context) string {
	out, _ := kubectl(ctx, "-n", cloudNamespace, "get", "hpa", "cloud-api", "-o", "jsonpath={.status.currentMetrics} {.status.conditions[*].message}")
	return out
}
