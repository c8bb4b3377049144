package link_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	hublink "github.com/tailgate-project/tailgate/hub/link"
)

// reports is a stream of reports without a connection.
type reports struct {
	grpc.ServerStream
	ctx  context.Context
	next chan *link.ReportRequest // closed where the spoke ends the stream
}

func (s *reports) Context() context.Context                { return s.ctx }
func (s *reports) SendAndClose(*link.ReportResponse) error { return nil }

func (s *reports) Recv() (*link.ReportRequest, error) {
	select {
	case r, ok := <-s.next:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
}

// listener is a hub that remembers what it heard last, and the members' registry.
type listener struct {
	hublink.Hub
	hublink.Members
	up       map[federation.ClusterID]bool
	hosts    map[federation.ClusterID][]ledger.Host
	interest map[federation.ClusterID]federation.Interest
	seen     []federation.Target
	// slow is taken from before a link is told, where it is set.
	slow chan struct{}
}

func newListener() *listener {
	return &listener{
		up: map[federation.ClusterID]bool{}, hosts: map[federation.ClusterID][]ledger.Host{}, interest: map[federation.ClusterID]federation.Interest{},
	}
}

func (l *listener) serve(heartbeat time.Duration) *hublink.Server {
	return hublink.New(hublink.Options{Hub: l, Members: l, Heartbeat: heartbeat, Log: slog.New(slog.DiscardHandler)})
}

func (l *listener) Owns(federation.ClusterID, string) bool                          { return true }
func (l *listener) Connected(context.Context, federation.ClusterID, bool, string)   {}
func (l *listener) Applied(context.Context, federation.ClusterID, uint64, uint64)   {}
func (l *listener) Devices(context.Context, federation.ClusterID, []hublink.Device) {}
func (l *listener) LinkState(_ context.Context, c federation.ClusterID, up bool) error {
	if l.slow != nil {
		<-l.slow
	}
	l.up[c] = up
	return nil
}

func (l *listener) Hosts(_ context.Context, c federation.ClusterID, hosts []ledger.Host) error {
	l.hosts[c] = hosts
	return nil
}

func (l *listener) Interest(_ context.Context, c federation.ClusterID, i federation.Interest) error {
	l.interest[c] = i
	return nil
}

func (l *listener) Observed(_ context.Context, _ federation.ClusterID, t federation.Target, _ bool, age time.Duration) error {
	if age < 0 {
		return fmt.Errorf("an observation of the future: %v", age)
	}
	l.seen = append(l.seen, t)
	return nil
}

// session is a stream that is served, and how it ended.
type session struct {
	*reports
	ended chan error
}

func report(ctx context.Context, s *hublink.Server) *session {
	out := &session{&reports{ctx: ctx, next: make(chan *link.ReportRequest, 10)}, make(chan error, 1)}
	go func() { out.ended <- s.Report(out.reports) }()
	return out
}

func (s *session) host(node string) {
	s.next <- &link.ReportRequest{ClusterId: "c1", Proxies: &link.Proxies{Ingress: []*link.ProxyHost{{NodeId: node, Addr: "100.64.0.1:9440"}}}}
}

// TestOldStreams has a spoke come back while the hub still holds its stream of before.
func TestOldStreams(t *testing.T) {
	for name, tc := range map[string]struct {
		then func(t *testing.T, old, young *session)
		// What the old stream ends with, and what holds after that.
		code codes.Code
		up   bool
	}{
		"what-the-old-one-still-brings-does-not-count": {
			func(_ *testing.T, old, young *session) { young.host("new"); synctest.Wait(); old.host("old") }, codes.Aborted, true,
		},
		"its-end-takes-nothing-down": {
			func(_ *testing.T, old, young *session) { young.host("new"); synctest.Wait(); close(old.next) }, codes.OK, true,
		},
		"its-silence-takes-nothing-down": {
			func(t *testing.T, _, young *session) {
				for range 3 {
					young.host("new")
					time.Sleep(900 * time.Millisecond)
				}
				young.host("new")
				time.Sleep(300 * time.Millisecond)
			}, codes.DeadlineExceeded, true,
		},
		"the-silence-of-both-does": {
			func(_ *testing.T, _, young *session) { young.host("new"); time.Sleep(3 * time.Second) }, codes.DeadlineExceeded, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newListener()
				s := l.serve(time.Second)
				old := report(t.Context(), s)
				old.host("old")
				synctest.Wait()
				young := report(t.Context(), s)
				tc.then(t, old, young)
				synctest.Wait()
				if err := <-old.ended; status.Code(err) != tc.code {
					t.Errorf("the old stream ended with %v, want %v", err, tc.code)
				}
				if l.up["c1"] != tc.up || len(l.hosts["c1"]) != 1 || l.hosts["c1"][0].NodeID != "new" {
					t.Errorf("link up %v, hosts %v; want %v and the new host", l.up["c1"], l.hosts["c1"], tc.up)
				}
				if tc.up {
					close(young.next)
					if err := <-young.ended; err != nil || l.up["c1"] {
						t.Errorf("the end of the newest stream: %v, link up %v", err, l.up["c1"])
					}
				} else if err := <-young.ended; status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("the silent stream ended with %v", err)
				}
			})
		})
	}
}

// TestTheHubHearsLastWhatIsTrueLast has a stream end and another one open while the hub is slow to listen.
func TestTheHubHearsLastWhatIsTrueLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newListener()
		l.slow = make(chan struct{}, 10)
		s := l.serve(time.Hour)
		old := report(t.Context(), s)
		l.slow <- struct{}{}
		old.host("old")
		synctest.Wait()
		close(old.next) // the hub is being told that the link is lost, and hangs
		synctest.Wait()
		young := report(t.Context(), s)
		young.host("new")
		synctest.Wait()
		close(l.slow) // it listens again
		synctest.Wait()
		if !l.up["c1"] {
			t.Error("the link is up, and the hub heard last that it is lost")
		}
		close(young.next)
		if err := errors.Join(<-old.ended, <-young.ended); err != nil {
			t.Error(err)
		}
	})
}

// FuzzReport reads whatever a spoke may send: it must not panic, and what reaches the hub must make sense.
func FuzzReport(f *testing.F) {
	for _, r := range []*link.ReportRequest{
		{ClusterId: "c1"},
		{ClusterId: "c1", Proxies: &link.Proxies{Ingress: []*link.ProxyHost{{NodeId: "n", Addr: "[fd7a::1]:9440"}, {NodeId: "m", Addr: "nowhere"}}}},
		{ClusterId: "c1", Refused: []*link.Refusal{{Key: "vip/x"}}, Interest: &link.Interest{Services: []*link.ServiceID{
			{Kind: "Service", Namespace: "b", Name: "web"}, {Kind: "Service", Namespace: "a", Name: "web"}, {Kind: "Service", Namespace: "b", Name: "web"},
		}}},
		{ClusterId: "c1", Observations: []*link.Observation{
			{Cluster: "c2", AgeMs: 1 << 31}, {Cluster: "c3", Service: &link.ServiceID{Kind: "Listener", Namespace: "a", Name: "main/http"}}, {Cluster: "C 4"},
		}},
	} {
		wire, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r link.ReportRequest
		if proto.Unmarshal(data, &r) != nil {
			return // no message at all
		}
		l := newListener()
		stream := &reports{ctx: t.Context(), next: make(chan *link.ReportRequest, 1)}
		stream.next <- &r
		close(stream.next)
		err := l.serve(time.Hour).Report(stream)
		if code := status.Code(err); code != codes.OK && code != codes.InvalidArgument {
			t.Errorf("refused with %v", err)
		}
		if up, told := l.up[federation.ClusterID(r.GetClusterId())]; up || !told {
			t.Errorf("after the stream the link is up %v, told %v", up, told)
		}
		l.check(t)
		if err == nil && len(l.seen) != len(r.GetObservations()) {
			t.Errorf("%d of %d observations were told", len(l.seen), len(r.GetObservations()))
		}
	})
}

// check checks that what was heard makes sense.
func (l *listener) check(t *testing.T) {
	t.Helper()
	for _, hosts := range l.hosts {
		for _, h := range hosts {
			if _, err := netip.ParseAddrPort(h.Addr); err != nil {
				t.Errorf("host %v: %v", h, err)
			}
		}
	}
	for _, i := range l.interest {
		if !slices.IsSortedFunc(i.Services, federation.ServiceID.Compare) || len(slices.Compact(slices.Clone(i.Services))) != len(i.Services) {
			t.Errorf("interest %v: want it sorted, each once", i.Services)
		}
	}
	for _, target := range l.seen {
		if err := target.Cluster.Validate(); err != nil {
			t.Error(err)
		}
	}
}
