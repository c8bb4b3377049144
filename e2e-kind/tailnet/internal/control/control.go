// Package control is test equipment: Tailscale's own test control server, made
// to behave like production where the test server leaves things out.
//
// The test server ([testcontrol.Server]) knows nodes by their keys, gives them
// addresses, and passes endpoints and host information between them. This
// package ends the clients' Noise connections in front of it and speaks Noise
// to it on the other side, so that it reads every message on the way:
//
//   - registrations are decided by auth keys (package state) and only then passed
//     on;
//   - network maps are amended: stable ids, names, tags, who is online, routes,
//     services and their names come from package state, and devices that were
//     deleted are taken out. (The test server can't forget a node.)
//   - the requests from control to node (c2n) that services need go through the
//     same streams.
package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/net/memnet"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// coalesce is how long a change waits for others before nodes are told of all
// of them at once.
const coalesce = 2 * time.Millisecond

// maxCoalesce bounds that where maps are large: a change waits for twice the
// time that the last maps took, so that a thousand services in a row are told
// in some dozens of maps, not in a thousand with all of them.
const maxCoalesce = 500 * time.Millisecond

// Config says what a control server serves. All fields are required.
type Config struct {
	State   *state.State
	DERPMap *tailcfg.DERPMap
	URL     string // where nodes find this server
	Logger  *slog.Logger
}

// Server is a control server. It serves nodes as an [http.Handler] while
// [Server.Run] runs.
type Server struct {
	cfg      Config
	mux      *http.ServeMux
	noiseKey key.MachinePrivate

	upstream    *testcontrol.Server
	upstreamKey key.MachinePublic
	inner       *memnet.Listener
	fetch       chan struct{} // wakes fetchServices

	mu       sync.Mutex
	machines map[key.MachinePublic]key.MachinePrivate // upstream identity of each client machine
	streams  map[key.NodePublic]*mapStream
	replies  map[string]chan<- *http.Response // c2n, by token
	closed   bool
	sessions sync.WaitGroup

	mapping atomic.Int64 // the nanoseconds that maps took since the last push
}

// New returns a control server.
func New(cfg Config) (*Server, error) {
	s := &Server{
		cfg:      cfg,
		noiseKey: key.NewMachine(),
		upstream: &testcontrol.Server{
			DERPMap:         cfg.DERPMap,
			DNSConfig:       &tailcfg.DNSConfig{Proxied: true},
			MagicDNSDomain:  cfg.State.View().Domain,
			ExplicitBaseURL: cfg.URL,
			Logf:            logger.Discard,
		},
		inner:    memnet.Listen("testcontrol:80"),
		fetch:    make(chan struct{}, 1),
		machines: map[key.MachinePublic]key.MachinePrivate{},
		streams:  map[key.NodePublic]*mapStream{},
		replies:  map[string]chan<- *http.Response{},
	}
	rec := httptest.NewRecorder()
	s.upstream.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/key?v=1", nil))
	var keys tailcfg.OverTLSPublicKeyResponse
	if err := json.NewDecoder(rec.Body).Decode(&keys); err != nil {
		return nil, fmt.Errorf("ask test control server for its key: %w", err)
	}
	s.upstreamKey = keys.PublicKey
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("GET /key", s.serveKey)
	s.mux.HandleFunc("/ts2021", s.serveNoise)
	s.mux.HandleFunc("/generate_204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return s, nil
}

// ServeHTTP serves nodes. The context of r must end no later than that of
// [Server.Run].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:     s.upstream,
		ErrorLog:    slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(s.inner); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve test control server: %w", err)
		}
		return nil
	})
	g.Go(func() error { return s.push(ctx) })
	g.Go(func() error { return s.fetchServices(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		s.endSessions()
		return server.Close()
	})
	return g.Wait()
}

// push tells all nodes of changes, and keeps the state's deadlines.
func (s *Server) push(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.cfg.State.Changed():
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(s.pause()):
			}
			select {
			case <-s.cfg.State.Changed():
			default:
			}
			wake(s.fetch)
			// The test server has no call to send everybody a new map, but
			// it does so whenever the SSH policy is set.
			s.upstream.SetSSHPolicy(nil)
		}
		if next := s.cfg.State.Tick(); !next.IsZero() {
			// An injected clock may stand still: don't spin on it.
			timer.Reset(max(time.Until(next), coalesce))
		}
	}
}

// pause is how long the next change waits for others.
func (s *Server) pause() time.Duration {
	return min(coalesce+2*time.Duration(s.mapping.Swap(0)), maxCoalesce)
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Server) serveKey(w http.ResponseWriter, r *http.Request) {
	if cmp.Or(r.FormValue("v"), "0") == "0" {
		http.Error(w, "only clients with Noise are served: ask for /key?v=N", http.StatusBadRequest)
		return
	}
	writeJSON(w, &tailcfg.OverTLSPublicKeyResponse{
		LegacyPublicKey: s.noiseKey.Public(),
		PublicKey:       s.noiseKey.Public(),
	})
}

// writeJSON answers a request; a client that is gone misses nothing.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
