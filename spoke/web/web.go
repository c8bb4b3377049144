// Package web tells over HTTP how the spoke is: for probes, for Prometheus, and for whoever looks.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tailgate-project/tailgate/spoke"
)

// Options are a server's parts. All are required.
type Options struct {
	// Status asks the spoke.
	Status func(ctx context.Context) (spoke.Status, error)
	// Ready returns nil when the spoke serves Envoy Gateway and Envoy, else what it waits for.
	Ready func() error
	// Metrics are those of the parts; the spoke's own are added.
	Metrics prometheus.Gatherer
}

// Health answers 200, or 503 and what is wrong.
func Health(wrong func(ctx context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := wrong(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer(w, "ok\n")
	})
}

// Handler returns the server's handler:
//
//	/healthz  200 while the loop answers
//	/readyz   200 once the spoke serves Envoy Gateway and Envoy, else 503 and what it waits for
//	/metrics  for Prometheus
//	/status   JSON of [spoke.Status]
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", Health(func(ctx context.Context) error {
		_, err := o.Status(ctx)
		return err
	}))
	mux.Handle("GET /readyz", Health(func(context.Context) error { return o.Ready() }))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		st, err := o.Status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		data, err := json.MarshalIndent(st, "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, string(data)+"\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		st, err := o.Status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		own := prometheus.NewRegistry()
		own.MustRegister(collector{st})
		promhttp.HandlerFor(prometheus.Gatherers{o.Metrics, own}, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	return mux
}

// answer writes to a client; one that has gone does not hear that it has.
func answer(w http.ResponseWriter, text string) { _, _ = w.Write([]byte(text)) }

// Serve serves the handler on the listener until ctx ends.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the status: %w", err)
	}
	return nil
}
