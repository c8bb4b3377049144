// Package standin takes Envoy's place in tests where no Envoy binary can be had. It is test equipment and never
// part of the product; it says so in its version, in its admin interface and in every report.
//
// It is started by the bootstrap that Envoy Gateway generates, follows the configuration that it is given by delta
// xDS, and routes real HTTP by it. A setting that it does not honour is refused by its full proto name (see
// package strict) and never ignored silently. What is like Envoy and what is not:
//
//   - Listeners, routes, clusters, endpoints and TLS secrets come by ADS, endpoints also from a static bootstrap
//     cluster. A cluster is used when its endpoints are there and checked, a listener when its routes and secrets are.
//   - Priorities, panic, outlier detection, health checks and retries follow Envoy's documented rules.
//   - HTTP/3, TCP and UDP proxying, zone-aware routing, rate limits, external filters, mirrors, hash policies and
//     success-rate outlier detection are refused. Access logs are accepted and not written.
package standin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/admin"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/bootstrap"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/downstream"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/stats"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/xds"
)

// Version names the program wherever it reports about itself.
const Version = "tailgate-envoy-standin/1.0 (test equipment, not Envoy, never part of the product)"

// adsSource names the aggregated stream in events and logs.
const adsSource = "ads"

// Options configure a Server.
type Options struct {
	Bootstrap        *bootstrapv3.Bootstrap
	AdminAddressPath string        // file that the admin interface's address is written to; empty: none
	DrainTime        time.Duration // how long connections of an old listener configuration may live on
	Events           *events.Log
	Log              *slog.Logger
	// BackoffBase and BackoffMax bound the wait before a broken xDS stream is opened again. 0 means Envoy's defaults,
	// 500 ms and 30 s.
	BackoffBase, BackoffMax time.Duration
}

// Server is one stand-in. Create it with New and start it with Run.
type Server struct {
	opts    Options
	log     *slog.Logger
	stats   *stats.Registry
	secrets *tlsctx.Store
	started time.Time
	failed  atomic.Bool // the health check, by the admin interface
	quit    context.CancelFunc

	// Read by every request.
	active atomic.Pointer[map[string]*upstream.Cluster]
	routes atomic.Pointer[map[string]*router.Config]

	mu        sync.Mutex
	ctx       context.Context // of Run
	group     *errgroup.Group
	ads       *xds.Client // nil: no dynamic resources
	eds       map[string]*xds.Client
	clusters  map[string]*clusterEntry
	endpoints map[endpointKey]*upstream.Endpoints
	listeners map[string]*listenerEntry
	hasCDS    bool // the first clusters have arrived, or none are to come
	hasLDS    bool
	asksLDS   bool
	wasLive   bool
	accepted  accepted
}

// New returns a server for a bootstrap that has been loaded.
func New(opts Options) *Server {
	if opts.BackoffBase == 0 {
		opts.BackoffBase = 500 * time.Millisecond
	}
	if opts.BackoffMax == 0 {
		opts.BackoffMax = 30 * time.Second
	}
	s := &Server{
		opts: opts, log: opts.Log, stats: stats.New(), secrets: &tlsctx.Store{}, started: time.Now(),
		eds: map[string]*xds.Client{}, clusters: map[string]*clusterEntry{},
		endpoints: map[endpointKey]*upstream.Endpoints{}, listeners: map[string]*listenerEntry{}, accepted: newAccepted(),
	}
	s.active.Store(&map[string]*upstream.Cluster{})
	s.routes.Store(&map[string]*router.Config{})
	s.stats.Gauge("server", "", "live").Set(1)
	return s
}

// Run serves until ctx ends, /quitquitquit is called or a part fails.
func (s *Server) Run(ctx context.Context) error {
	ctx, s.quit = context.WithCancel(ctx)
	defer s.quit()
	s.group, ctx = errgroup.WithContext(ctx)
	s.ctx = ctx
	s.log.Info("this is "+Version, "node", s.opts.Bootstrap.GetNode().GetId())
	if err := s.serveAdmin(); err != nil {
		return err
	}
	if err := s.startStatic(); err != nil {
		s.quit()
		return errors.Join(err, s.group.Wait())
	}
	<-ctx.Done()
	err := s.group.Wait()
	return errors.Join(err, s.opts.Events.Err())
}

// startStatic starts what the bootstrap brings, and the ADS stream.
func (s *Server) startStatic() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.opts.Bootstrap
	for _, c := range b.GetStaticResources().GetClusters() {
		spec, err := upstream.Compile(c)
		if err != nil {
			return fmt.Errorf("static cluster %s: %w", c.GetName(), err)
		}
		spec.Bootstrapped = true
		s.setClusterLocked(spec)
	}
	if err := s.startADSLocked(); err != nil {
		return err
	}
	s.subscribeLocked()
	for _, l := range b.GetStaticResources().GetListeners() {
		spec, err := downstream.Compile(l)
		if err != nil {
			return fmt.Errorf("static listener %s: %w", l.GetName(), err)
		}
		if err := s.setListenerLocked(spec); err != nil {
			return fmt.Errorf("static listener %s: %w", l.GetName(), err)
		}
	}
	return nil
}

func (s *Server) startADSLocked() error {
	dyn := s.opts.Bootstrap.GetDynamicResources()
	s.asksLDS = dyn.GetLdsConfig().GetAds() != nil
	s.hasCDS, s.hasLDS = dyn.GetCdsConfig().GetAds() == nil, !s.asksLDS
	if dyn.GetAdsConfig() == nil {
		return nil
	}
	name, err := upstream.GRPCCluster(dyn.GetAdsConfig())
	if err != nil {
		return err
	}
	s.ads, err = s.clientLocked(adsSource, name)
	if err != nil {
		return fmt.Errorf("ads_config: %w", err)
	}
	if !s.hasCDS {
		s.ads.WantAll(xds.ClusterType)
	}
	s.proceedLocked()
	return nil
}

// serveAdmin binds and serves the admin interface.
func (s *Server) serveAdmin() error {
	address := bootstrap.AdminAddress(s.opts.Bootstrap)
	if address == "" {
		return nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(s.ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("admin interface: %w", err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: admin.New(admin.Options{
		Server: s, Stats: s.stats, Events: s.opts.Events, Node: s.opts.Bootstrap.GetNode(), Version: Version, Started: s.started,
	})}
	s.group.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("admin interface: %w", err)
		}
		return nil
	})
	s.group.Go(func() error {
		<-s.ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil { // lets the answer to /quitquitquit out
			return srv.Close()
		}
		return nil
	})
	if s.opts.AdminAddressPath == "" {
		return nil
	}
	if err := os.WriteFile(s.opts.AdminAddressPath, []byte(ln.Addr().String()), 0o644); err != nil {
		return fmt.Errorf("write --admin-address-path: %w", err)
	}
	return nil
}

// State is the state that /ready tells. Once live, only a failed health check changes it.
func (s *Server) State() adminv3.ServerInfo_State {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := !s.hasLDS
	for _, l := range s.listeners {
		waiting = waiting || l.live == nil
	}
	s.wasLive = s.wasLive || (s.hasCDS && !waiting)
	switch {
	case s.failed.Load():
		return adminv3.ServerInfo_DRAINING
	case s.wasLive:
		return adminv3.ServerInfo_LIVE
	case !s.hasCDS:
		return adminv3.ServerInfo_PRE_INITIALIZING
	default:
		return adminv3.ServerInfo_INITIALIZING
	}
}

// FailHealthCheck makes the health_check filter and /ready fail, or succeed again. Failing starts draining.
func (s *Server) FailHealthCheck(fail bool) {
	s.failed.Store(fail)
	if fail {
		s.DrainListeners()
	}
}

// DrainListeners asks clients to close their connections with the next answer. Listeners stay open.
func (s *Server) DrainListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if l.live != nil {
			l.live.Drain()
		}
	}
}

// Quit ends Run.
func (s *Server) Quit() { s.quit() }
