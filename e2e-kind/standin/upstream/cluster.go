package upstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/stats"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
)

// Deps are what clusters share.
type Deps struct {
	Stats    *stats.Registry
	Secrets  *tlsctx.Store
	Log      *slog.Logger
	Now      func() time.Time
	Resolver *net.Resolver
}

// Cluster balances requests over the endpoints of one cluster.
type Cluster struct {
	Spec     *Spec
	deps     Deps
	detector *detector // nil: no outlier detection
	wake     chan struct{}
	ready    chan struct{}

	requests, retries atomic.Int64 // in flight
	trafficked        atomic.Bool
	view              atomic.Pointer[view]

	mu        sync.Mutex
	endpoints *Endpoints // nil: not known yet
	hosts     map[string]*host
	slots     []*slot
	isReady   bool
}

// New returns a cluster without endpoints, unless it is static. Run makes it watch their health.
func New(spec *Spec, deps Deps) *Cluster {
	c := &Cluster{Spec: spec, deps: deps, wake: make(chan struct{}, 1), ready: make(chan struct{}), hosts: map[string]*host{}}
	if spec.outlier != nil {
		c.detector = newDetector(spec.outlier)
	}
	c.view.Store(newView(spec, &Endpoints{Overprovisioning: 140}, nil))
	if spec.Discovery == Static {
		c.Update(spec.Endpoints)
	}
	return c
}

// Ready is closed when the endpoints are known and each has had its first health check.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Update replaces the endpoints at once. Hosts that stay keep connections and health; those that leave finish their
// requests and close.
func (c *Cluster) Update(e *Endpoints) {
	c.mu.Lock()
	old := c.hosts
	c.endpoints, c.hosts, c.slots = e, map[string]*host{}, nil
	for i, l := range e.Localities {
		for _, ep := range l.Endpoints {
			socket := c.Spec.socketFor(ep.match)
			key := ep.Address + " " + socket.String()
			h := old[key]
			if h == nil {
				if h = c.hosts[key]; h == nil {
					h = newHost(c.Spec, ep, key, socket, c.deps, c.detector)
				}
			}
			c.hosts[key] = h
			c.slots = append(c.slots, &slot{host: h, endpoint: ep, priority: l.Priority, locality: i})
		}
	}
	if c.detector != nil {
		c.detector.keep(c.hosts)
	}
	c.refreshLocked()
	gone := []*host{}
	for key, h := range old {
		if c.hosts[key] == nil {
			gone = append(gone, h)
		}
	}
	c.mu.Unlock()
	for _, h := range gone {
		h.drain()
	}
	c.signal()
}

// Drain closes the connections of a cluster that is not used any more, each when its request is done.
func (c *Cluster) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		h.drain()
	}
}

func (c *Cluster) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Cluster) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refreshLocked()
}

// refreshLocked publishes a new view of endpoints and health.
func (c *Cluster) refreshLocked() {
	if c.endpoints == nil {
		return
	}
	v := newView(c.Spec, c.endpoints, c.slots)
	c.view.Store(v)
	var t tally
	for _, p := range v.tallies {
		t.total, t.healthy, t.degraded = t.total+p.total, t.healthy+p.healthy, t.degraded+p.degraded
	}
	c.gauge("membership_total", t.total)
	c.gauge("membership_healthy", t.healthy)
	c.gauge("membership_degraded", t.degraded)
	if !c.isReady && !slices.ContainsFunc(c.slots, func(s *slot) bool { return s.unchecked() }) {
		c.isReady = true
		close(c.ready)
	}
}

func (c *Cluster) gauge(stat string, n int) {
	c.deps.Stats.Gauge("cluster", c.Spec.Name, stat).Set(int64(n))
}

func (c *Cluster) count(stat string) { c.deps.Stats.Counter("cluster", c.Spec.Name, stat).Inc() }

// Run watches the endpoints until ctx ends: name lookups, active health checks and the end of ejections.
func (c *Cluster) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if c.Spec.Discovery == DNS {
		wg.Go(func() { c.resolve(ctx) })
	}
	var tick <-chan time.Time
	if c.detector != nil {
		t := time.NewTicker(c.Spec.outlier.interval)
		defer t.Stop()
		tick = t.C
	}
	checkers := map[*host]context.CancelFunc{}
	for {
		c.superviseChecks(ctx, checkers, &wg)
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-tick:
			if c.detector.tick(c.deps.Now()) {
				c.refresh()
			}
		}
	}
}

// superviseChecks starts the checks of new hosts and ends those of hosts that left.
func (c *Cluster) superviseChecks(ctx context.Context, running map[*host]context.CancelFunc, wg *sync.WaitGroup) {
	if len(c.Spec.checks) == 0 {
		return
	}
	c.mu.Lock()
	slots := slices.Clone(c.slots)
	c.mu.Unlock()
	present := map[*host]bool{}
	for _, s := range slots {
		present[s.host] = true
		if running[s.host] != nil || s.endpoint.Unchecked {
			continue
		}
		checkCtx, cancel := context.WithCancel(ctx)
		running[s.host] = cancel
		for i := range c.Spec.checks {
			wg.Go(func() { c.check(checkCtx, s, i) })
		}
	}
	for h, cancel := range running {
		if !present[h] {
			cancel()
			delete(running, h)
		}
	}
}

// resolve looks the names of a DNS cluster up, again and again. A failed lookup keeps the last addresses.
func (c *Cluster) resolve(ctx context.Context) {
	for {
		if e, err := c.lookup(ctx); err != nil {
			c.count("update_failure")
			c.deps.Log.Warn("name lookup failed; the last addresses stay", "cluster", c.Spec.Name, "err", err)
			if c.current() == nil {
				c.Update(&Endpoints{Name: c.Spec.Name, Overprovisioning: c.Spec.Endpoints.Overprovisioning}) // no longer waits
			}
		} else if old := c.current(); old == nil || !sameAddresses(old, e) {
			c.Update(e)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.Spec.dnsRefresh):
		}
	}
}

func (c *Cluster) current() *Endpoints {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoints
}

func (c *Cluster) lookup(ctx context.Context) (*Endpoints, error) {
	out := &Endpoints{Name: c.Spec.Name, Overprovisioning: c.Spec.Endpoints.Overprovisioning}
	for _, l := range c.Spec.Endpoints.Localities {
		resolved := l
		resolved.Endpoints = nil
		for _, ep := range l.Endpoints {
			name, port, err := net.SplitHostPort(ep.Address)
			if err != nil {
				return nil, fmt.Errorf("address %s: %w", ep.Address, err)
			}
			ips, err := c.deps.Resolver.LookupIP(ctx, c.Spec.dnsNetwork, name)
			if err != nil {
				return nil, err
			}
			for _, ip := range ips {
				one := ep
				one.Address = net.JoinHostPort(ip.String(), port)
				if one.Hostname == "" {
					one.Hostname = name
				}
				resolved.Endpoints = append(resolved.Endpoints, one)
			}
		}
		slices.SortFunc(resolved.Endpoints, func(a, b Endpoint) int { return cmp.Compare(a.Address, b.Address) })
		out.Localities = append(out.Localities, resolved)
	}
	return out, nil
}

func sameAddresses(a, b *Endpoints) bool {
	return slices.EqualFunc(a.Localities, b.Localities, func(x, y Locality) bool {
		return slices.EqualFunc(x.Endpoints, y.Endpoints, func(e, f Endpoint) bool { return e.Address == f.Address })
	})
}

// Status is what the admin interface tells of one endpoint.
type Status struct {
	Address, Hostname, Locality string
	Priority                    int
	Weight                      uint32
	EDSHealth                   string // as EDS gave it
	FailedCheck, Ejected        bool
	Healthy                     bool
	Active                      int64 // requests in flight
}

// Statuses returns the endpoints in the order of the load assignment.
func (c *Cluster) Statuses() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Status
	for _, s := range c.slots {
		all = append(all, Status{
			Address: s.address, Hostname: s.endpoint.Hostname, Locality: c.endpoints.Localities[s.locality].Name,
			Priority: s.priority, Weight: s.endpoint.Weight, EDSHealth: s.endpoint.Health.String(),
			FailedCheck: s.failedCheck(), Ejected: s.detector.ejected(s.host), Healthy: s.state(s.endpoint) == healthy,
			Active: s.active.Load(),
		})
	}
	return all
}
