// Package clusters engages the members' API servers with the controllers: it is a provider of multicluster-runtime.
//
// Each member has one goroutine. It asks what the member's API server serves, starts informers for that, waits until
// they are synced, and only then engages the member with the controllers, because engaging blocks all members for as
// long as one of them is not synced. Beside it a prober asks the API server whether it is there: a watch through a
// dead path fails silently.
//
// A member whose path breaks stays engaged: its informers go on from where they were when it is back. Each engagement
// costs one goroutine per watched kind that multicluster-runtime never ends (controller.go, startWithinContext), so a
// member is engaged anew only if it joins again, at another address, or serves other kinds than before.
package clusters

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	mcmanager "sigs.k8s.io/multicluster-runtime/pkg/manager"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"

	"github.com/tailgate-project/tailgate/federation"
)

// Member is a member whose API server is to be watched.
type Member struct {
	ID federation.ClusterID
	// Addr is where the member's spoke serves its API server, in plain HTTP/2.
	Addr netip.AddrPort
	// NodeID is the stable id of the tailnet node that must answer at Addr.
	NodeID string
}

// Sink is told about the members' API servers. Its errors end [Provider.Run].
type Sink interface {
	// APIState says that a member's API server is up and all its objects are read, or that it is not, and why.
	APIState(ctx context.Context, c federation.ClusterID, up bool, reason string) error
	// ClusterGone says that a member was disengaged and that nothing of it will be reconciled any more.
	ClusterGone(ctx context.Context, c federation.ClusterID) error
}

// Options are what a provider needs. Scheme, Dial, Sink and Log are required; the times have defaults.
type Options struct {
	// Scheme must know core, discovery.k8s.io, gateway.networking.k8s.io, gateway.tailscale.com, and multicluster.x-k8s.io
	// in its versions v1alpha1 and v1beta1.
	Scheme *runtime.Scheme
	// Dial connects to a member's API proxy, and to nobody else. It is bounded by DialTimeout.
	Dial func(ctx context.Context, m Member) (net.Conn, error)
	Sink Sink
	Log  *slog.Logger

	// DialTimeout is 5 s. A shorter one makes the reflectors of an unreachable member dial more often.
	DialTimeout time.Duration
	// Ping is after how long without a frame a connection is pinged, 10 s; PingTimeout how long the answer may take,
	// 5 s.
	Ping, PingTimeout time.Duration
	// Probe is the interval of the probes of an API server, 2 s; ProbeTimeout how long one may take, 1.5 s.
	Probe, ProbeTimeout time.Duration
	// Recheck is how often a member is asked which optional kinds it serves, 1 min.
	Recheck time.Duration
	// Retry is the first delay after a failed engagement, 1 s. It doubles up to 30 s.
	Retry time.Duration
}

func (o *Options) complete() {
	for d, value := range map[*time.Duration]time.Duration{
		&o.DialTimeout:  5 * time.Second,
		&o.Ping:         10 * time.Second,
		&o.PingTimeout:  5 * time.Second,
		&o.Probe:        2 * time.Second,
		&o.ProbeTimeout: 1500 * time.Millisecond,
		&o.Recheck:      time.Minute,
		&o.Retry:        time.Second,
	} {
		if *d == 0 {
			*d = value
		}
	}
}

// Provider gives the controllers the clusters of the members that are engaged and synced.
type Provider struct {
	Options
	wake chan struct{}

	mu      sync.Mutex
	want    map[federation.ClusterID]Member
	left    map[federation.ClusterID]struct{}
	engaged map[multicluster.ClusterName]*engaged
	indexes []index
}

// engaged is a member whose informers are synced.
type engaged struct {
	cluster.Cluster
	served kinds
}

type index struct {
	object client.Object
	field  string
	values client.IndexerFunc
}

var _ multicluster.Provider = (*Provider)(nil)

// New returns a provider without members.
func New(o Options) *Provider {
	o.complete()
	return &Provider{
		Options: o,
		wake:    make(chan struct{}, 1),
		want:    map[federation.ClusterID]Member{},
		left:    map[federation.ClusterID]struct{}{},
		engaged: map[multicluster.ClusterName]*engaged{},
	}
}

// Engage makes m a member whose API server is watched. The same member again changes nothing; one with another
// address or node is engaged anew, without being gone in between.
func (p *Provider) Engage(m Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want[m.ID] == m {
		return
	}
	p.want[m.ID] = m
	p.signal()
}

// Disengage ends the watching of a member. The sink hears of it once nothing of the member can be reconciled any more.
// A member that is not engaged is left as it is.
func (p *Provider) Disengage(id federation.ClusterID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.want[id]; !ok {
		return
	}
	delete(p.want, id)
	delete(p.engaged, multicluster.ClusterName(id))
	p.left[id] = struct{}{}
	p.signal()
}

func (p *Provider) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Get returns the cluster of a member. One that is not engaged and synced is [multicluster.ErrClusterNotFound], and the
// controllers drop what they wanted of it.
func (p *Provider) Get(_ context.Context, name multicluster.ClusterName) (cluster.Cluster, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.engaged[name]
	if !ok {
		return nil, fmt.Errorf("member %s: %w", name, multicluster.ErrClusterNotFound)
	}
	return e.Cluster, nil
}

// Serves reports whether an engaged member serves a kind that not all members have. A controller that watches such a
// kind needs it as its cluster filter; it cannot change while the member is engaged.
func (p *Provider) Serves(name multicluster.ClusterName, kind schema.GroupVersionKind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.engaged[name]
	return ok && e.served[kind]
}

// IndexField adds an index to all members that are engaged from now on. It must be called before the first one is
// synced, because a running informer takes no new index.
func (p *Provider) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.engaged) > 0 {
		return fmt.Errorf("index %T by %s: members are engaged already", o, field)
	}
	p.indexes = append(p.indexes, index{o, field, values})
	return nil
}

// AddTo lets a manager run the provider. It runs whether the manager leads or not, so that the caches of a hub that
// stands by are warm.
func (p *Provider) AddTo(mgr mcmanager.Manager) error {
	if err := mgr.GetLocalManager().Add(runner{p, mgr}); err != nil {
		return fmt.Errorf("add the members' provider: %w", err)
	}
	return nil
}

type runner struct {
	provider *Provider
	aware    multicluster.Aware
}

func (r runner) Start(ctx context.Context) error { return r.provider.Run(ctx, r.aware) }
func (r runner) NeedLeaderElection() bool        { return false }

// running is the goroutine of a member.
type running struct {
	member Member
	cancel context.CancelFunc
	// gone is set when the member left since the goroutine began.
	gone bool
}

// Run engages members with aware until parent ends or the sink fails. What was engaged is not reported as gone then.
func (p *Provider) Run(parent context.Context, aware multicluster.Aware) error {
	ctx, cancel := context.WithCancelCause(parent)
	var members sync.WaitGroup
	defer members.Wait()
	defer cancel(nil)
	all := map[federation.ClusterID]*running{}
	ended := make(chan federation.ClusterID)
	for {
		want := p.compare(all)
		for id, m := range want {
			if all[id] != nil {
				continue
			}
			memberCtx, stop := context.WithCancel(ctx)
			all[id] = &running{member: m, cancel: stop}
			members.Go(func() {
				if err := p.watch(memberCtx, m, aware); err != nil {
					cancel(err)
				}
				select {
				case ended <- id:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return nil
			}
			return context.Cause(ctx)
		case <-p.wake:
		case id := <-ended:
			all[id].cancel()
			gone := all[id].gone
			delete(all, id)
			if !gone {
				break
			}
			if err := p.Sink.ClusterGone(ctx, id); err != nil {
				return fmt.Errorf("report that member %s is gone: %w", id, err)
			}
		}
	}
}

// compare ends the goroutines that should not run as they do, and returns which members should have one.
func (p *Provider) compare(all map[federation.ClusterID]*running) map[federation.ClusterID]Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, r := range all {
		if _, left := p.left[id]; left {
			r.gone = true
		}
		if r.gone || p.want[id] != r.member {
			r.cancel()
		}
	}
	clear(p.left) // whoever left before it had a goroutine was never engaged
	return maps.Clone(p.want)
}
