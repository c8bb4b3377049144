package proxy

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/spoke/probe"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// reopenDelay is the time between the end of a stream to the spoke and the next attempt.
const reopenDelay = 100 * time.Millisecond

// link is the proxy's end of the protocol with the spoke. What the spoke shall know waits here while it is away.
type link struct {
	opts  Options
	spoke proxyapi.SpokeClient
	// configs holds the newest configuration that nobody has taken yet.
	configs chan *proxyapi.Config
	// wake says that there is something to report.
	wake chan struct{}

	mu sync.Mutex
	// status is without results.
	status  *proxyapi.Status
	results map[string]probe.Result
	// fresh are the results that were not reported on the current stream.
	fresh map[string]struct{}
}

func newLink(o Options, spoke proxyapi.SpokeClient, n *node) *link {
	addr := n.addr4.String()
	if o.Role == Ingress {
		addr = netip.AddrPortFrom(n.addr4, ProbePort).String()
	}
	status := &proxyapi.Status{Role: string(o.Role), Replica: o.Replica, Tailnet: o.Tailnet, NodeId: n.id, Addr: addr}
	if o.ListenAddr.IsValid() {
		status.ListenAddr = o.ListenAddr.String()
	}
	return &link{
		opts:    o,
		spoke:   spoke,
		configs: make(chan *proxyapi.Config, 1),
		wake:    make(chan struct{}, 1),
		status:  status,
		results: map[string]probe.Result{},
		fresh:   map[string]struct{}{},
	}
}

// run keeps both streams open until ctx ends.
func (l *link) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.keep(ctx, "watch", func() error { return l.watch(ctx) }) })
	g.Go(func() error { return l.keep(ctx, "report", func() error { return l.report(ctx) }) })
	return g.Wait()
}

// keep runs a stream again and again, until ctx ends.
func (l *link) keep(ctx context.Context, name string, stream func() error) error {
	for {
		err := stream()
		if ctx.Err() != nil {
			return nil
		}
		l.opts.Logger.Info("the spoke is away, going on without it", "stream", name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(reopenDelay):
		}
	}
}

func (l *link) watch(ctx context.Context) error {
	request := &proxyapi.WatchRequest{Role: string(l.opts.Role), Replica: l.opts.Replica, Tailnet: l.opts.Tailnet}
	stream, err := l.spoke.Watch(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		config, err := stream.Recv()
		if err != nil {
			return err
		}
		if config.GetUnchanged() {
			continue
		}
		// The newest replaces one that was not taken. Nobody else sends.
		select {
		case <-l.configs:
		default:
		}
		l.configs <- config
	}
}

func (l *link) report(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := l.spoke.Report(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	// The end of a stream on which nothing is being sent shows only in what it receives.
	go func() {
		err := stream.RecvMsg(&proxyapi.ReportResponse{})
		if err == nil {
			err = errors.New("the spoke has ended the stream")
		}
		cancel(err)
	}()
	l.renew()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.wake:
		}
		if err := stream.Send(l.message()); err != nil {
			return err
		}
	}
}

// renew makes everything unreported: for a new stream.
func (l *link) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.results {
		l.fresh[id] = struct{}{}
	}
	l.wakeUp()
}

// message returns what is to be reported now, and takes it for reported.
func (l *link) message() *proxyapi.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	message := proto.CloneOf(l.status)
	for id := range l.fresh {
		r := l.results[id]
		message.Results = append(message.Results, &proxyapi.ProbeResult{
			Id: id, Reachable: r.Reachable, RttUs: uint32(r.RTT.Microseconds()), Error: string(r.Reason),
			AgeMs: uint32(time.Since(r.At).Milliseconds()), Row: uint32(r.Row),
		})
	}
	clear(l.fresh)
	return message
}

// applied reports what has become of a configuration.
func (l *link) applied(config *proxyapi.Config, problems map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.AppliedVersion, l.status.Errors = config.GetVersion(), problems
	probed := map[string]struct{}{}
	for _, p := range config.GetProbes() {
		probed[p.GetId()] = struct{}{}
	}
	gone := func(id string, _ probe.Result) bool { _, ok := probed[id]; return !ok }
	maps.DeleteFunc(l.results, gone)
	maps.DeleteFunc(l.fresh, func(id string, _ struct{}) bool { return gone(id, probe.Result{}) })
	l.wakeUp()
}

// observed reports a probe's result.
func (l *link) observed(r probe.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[r.ID] = r
	l.fresh[r.ID] = struct{}{}
	l.wakeUp()
}

// drained reports that the proxy has withdrawn what it hosted.
func (l *link) drained() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Draining = true
	l.wakeUp()
}

func (l *link) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
