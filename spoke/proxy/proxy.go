// Package proxy carries connections into and out of a member cluster over the tailnet.
//
// A proxy process is one tailnet node. An ingress proxy hosts all VIPs of its cluster and passes what arrives there on
// to the ready endpoints; an egress proxy gives every remote VIP in use one stable local address, and probes remote
// clusters on the path that its traffic takes. What to do comes from the spoke, over a local socket or over TCP with mutual
// TLS, and is applied by difference, without a restart and without touching a connection that it does not concern. While the spoke is away a
// proxy goes on with what it was last told, which it also keeps on disk.
//
// A proxy in front of a remote hides the remote's death from its clients: to connect to the proxy always succeeds.
// So wherever the remote cannot be reached the client's connection is reset, at once, and never merely closed.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"tailscale.com/ipn"

	"github.com/tailgate-project/tailgate/spoke/probe"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// Role is what a proxy does.
type Role string

const (
	// Ingress proxies host the VIPs of their cluster.
	Ingress Role = "ingress"
	// Egress proxies give local addresses to the VIPs of other clusters.
	Egress Role = "egress"
)

// ProbePort is the TCP port of an ingress proxy's own tailnet address at which observers probe it.
const ProbePort = 9440

// defaultMemoryLimit is the Go memory limit, in bytes, where GOMEMLIMIT sets none. Without a limit WireGuard's buffers
// grow to gigabytes under a few bulk streams; with less than this throughput suffers.
const defaultMemoryLimit = 512 << 20

// retryInterval is the time between two attempts to apply what could not be applied.
const retryInterval = time.Second

// Options are what [Run] needs.
type Options struct {
	Role Role
	// Replica is the ordinal of this proxy among those of its role.
	Replica uint32
	// Tailnet is the name of the TailscaleTailnet that the proxy is in; empty for the only one there is.
	Tailnet string
	// Socket is the path of the spoke's socket. Spoke, in its place, is the spoke's host and port, and TLSDir the directory
	// of the certificates for it, see [proxytls.Client].
	Socket, Spoke, TLSDir string
	// StateDir keeps the last configuration and, without Store, the node's identity. It belongs to this replica alone.
	StateDir string
	// Store keeps the node's identity.
	Store ipn.StateStore
	// ListenAddr is the address at which an egress proxy listens, whichever the spoke says. The zero value leaves it the
	// spoke's.
	ListenAddr netip.Addr
	// ControlURL is the tailnet's control server; empty means Tailscale's.
	ControlURL string
	Hostname   string
	// AuthKey lets the node join the tailnet and gives it its tags. It is not needed once the node has an identity. Where it
	// is empty, the spoke is asked for one when it takes one.
	AuthKey string
	// Tags are those that the node asks for. The control server may give it others with the key.
	Tags []string
	// ProberTags are the tags of the peers that may use the probe port. Empty means tag:tailgate-proxy and
	// tag:tailgate-spoke.
	ProberTags []string
	// Version is Tailgate's, without spaces.
	Version string
	// DrainTimeout is how long a proxy that was told to end waits for its VIPs to move and its connections to end.
	// Zero means 20 seconds.
	DrainTimeout time.Duration
	// DialTimeout is how long a connection to a VIP that does not answer is tried. Zero means 2 seconds.
	DialTimeout time.Duration
	Logger      *slog.Logger
	Metrics     prometheus.Registerer
	// Ready is told whether the proxy does its work.
	Ready *Readiness
}

func (o *Options) complete() error {
	switch {
	case o.Role != Ingress && o.Role != Egress:
		return fmt.Errorf("proxy role %q: use %s or %s", o.Role, Ingress, Egress)
	case (o.Socket == "") == (o.Spoke == ""):
		return errors.New("give either the path of the spoke's socket or the spoke's host and port")
	case o.Spoke != "" && o.TLSDir == "":
		return errors.New("no directory with certificates: the spoke's port takes nobody without")
	case o.StateDir == "":
		return errors.New("no state directory: give one that belongs to this replica alone")
	case o.Hostname == "":
		return errors.New("no hostname: give the name that the proxy shall have in the tailnet")
	}
	if len(o.ProberTags) == 0 {
		o.ProberTags = []string{"tag:tailgate-proxy", "tag:tailgate-spoke"}
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 20 * time.Second
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Ready == nil {
		o.Ready = &Readiness{}
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return nil
}

// role is what an ingress and an egress proxy do differently. One goroutine calls apply and drain.
type role interface {
	// apply makes the configuration true as far as it can and returns what it could not apply, by name. Every call is
	// level-triggered: the same configuration may come again, to try what failed before.
	apply(ctx context.Context, config *proxyapi.Config) map[string]string
	// drain begins to end what gives the proxy new connections, and reports whether that is all done. Otherwise apply
	// goes on being called until there is nothing left in the configuration.
	drain(ctx context.Context) (done bool)
	// idle returns when no connection is open, or when ctx ends.
	idle(ctx context.Context)
}

// Run is a proxy process: it joins the tailnet and works until ctx ends, then withdraws, lets connections end for up
// to Options.DrainTimeout, and returns nil. It returns an error if the tailnet refuses the node.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	limitMemory()
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	metrics, err := newMetrics(o.Metrics, o.Role)
	if err != nil {
		return err
	}
	conn, err := connect(o)
	if err != nil {
		return err
	}
	defer conn.Close()
	spoke := proxyapi.NewSpokeClient(conn)
	node, err := enter(ctx, o, spoke)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.close()) }()
	o.Logger.Info("joined the tailnet", "node", node.id, "addr", node.addr4)

	p := &process{opts: o, node: node, link: newLink(o, spoke, node), draining: make(chan struct{}), withdrawn: make(chan struct{})}
	p.prober = probe.New(probe.Options{Dial: node.dialPeer, Report: p.link.observed})
	if o.Role == Ingress {
		p.role = newIngress(node, o, metrics)
	} else {
		p.role = newEgress(node, o, metrics)
	}
	return p.run(ctx)
}

// limitMemory sets the default limit unless the environment has set one.
func limitMemory() {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(defaultMemoryLimit)
	}
}

// process is the wiring of one proxy.
type process struct {
	opts   Options
	node   *node
	link   *link
	prober *probe.Prober
	role   role
	// draining is closed when the process was told to end.
	draining chan struct{}
	// withdrawn is closed when nothing gives the process new connections any more.
	withdrawn chan struct{}
}

// run works until ctx ends and the proxy has drained. The parts must outlive ctx for that, so they get a context of
// their own.
func (p *process) run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	g.Go(func() error { return p.node.netmap.run(work) })
	g.Go(func() error { return p.link.run(work) })
	g.Go(func() error { return p.prober.Run(work) })
	g.Go(func() error { return p.configure(work) })
	g.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			p.drain(work)
		case <-work.Done():
		}
		return nil
	})
	return g.Wait()
}

// configure applies each configuration, and again whenever the tailnet changes or something is left to be done. It
// returns when the process was told to end and nothing gives it new connections any more.
func (p *process) configure(ctx context.Context) error {
	defer close(p.withdrawn)
	config, draining, ending := p.load(), p.draining, false
	if config == nil {
		p.opts.Ready.set(errWaiting)
		select {
		case config = <-p.link.configs:
			p.save(config)
		case <-draining:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	retry := time.NewTimer(retryInterval)
	defer retry.Stop()
	for {
		changed := p.node.netmap.changes()
		problems := p.apply(ctx, config)
		if ending && len(config.GetIngress()) == 0 {
			return nil
		}
		retry.Stop()
		if len(problems) > 0 {
			retry.Reset(retryInterval)
		}
		select {
		case config = <-p.link.configs:
			p.save(config)
		case <-changed:
		case <-retry.C:
		case <-draining:
			done := p.role.drain(ctx)
			p.link.drained()
			if done {
				return nil
			}
			draining, ending = nil, true
		case <-ctx.Done():
			return nil
		}
	}
}

// apply makes config true as far as possible, tells the spoke, and returns what is not.
func (p *process) apply(ctx context.Context, config *proxyapi.Config) map[string]string {
	problems := p.role.apply(ctx, config)
	targets, bad := probeTargets(config.GetProbes())
	p.prober.Set(targets)
	maps.Copy(problems, bad)
	p.link.applied(config, problems)
	p.opts.Ready.applied(problems)
	return problems
}

// drain withdraws, waits until the spoke says that nothing is to be hosted here any more, and then for open
// connections to end. All of it takes DrainTimeout at most.
func (p *process) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.DrainTimeout)
	defer cancel()
	p.opts.Logger.Info("draining", "timeout", p.opts.DrainTimeout)
	p.opts.Ready.drains()
	close(p.draining)
	select {
	case <-p.withdrawn:
	case <-ctx.Done():
		p.opts.Logger.Warn("the VIPs were not seen to move in time")
	}
	p.role.idle(ctx)
}

func (p *process) configFile() string { return filepath.Join(p.opts.StateDir, "config.pb") }

// save keeps the configuration for a restart while the spoke is away. Without it the proxy works as well, until then.
func (p *process) save(config *proxyapi.Config) {
	if err := writeConfig(p.configFile(), config); err != nil {
		p.opts.Logger.Warn("cannot keep the configuration for a restart", "error", err)
	}
}

// load returns the configuration that was saved last, or nil if there is none.
func (p *process) load() *proxyapi.Config {
	config, err := readConfig(p.configFile())
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			p.opts.Logger.Warn("cannot start from the last configuration", "error", err)
		}
		return nil
	}
	return config
}
