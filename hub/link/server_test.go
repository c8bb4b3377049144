package link_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	hublink "github.com/tailgate-project/tailgate/hub/link"
)

// rig is a server on loopback with a hub and members that write down what they are told.
type rig struct {
	hub    link.HubClient
	server *hublink.Server
	addr   string

	mu     sync.Mutex
	node   hublink.Node
	owner  map[federation.ClusterID]string
	refuse error
	told   chan string
	update chan linkstate.Update
}

// start serves with a heartbeat that is short where a test waits for it, and long where it must not come.
func start(t *testing.T, heartbeat time.Duration) *rig {
	t.Helper()
	r := &rig{
		node:   hublink.Node{StableID: "n1", Name: "spoke-1", Tags: []string{"tag:tailgate-spoke"}},
		owner:  map[federation.ClusterID]string{},
		told:   make(chan string, 100),
		update: make(chan linkstate.Update, 10),
	}
	s := hublink.New(hublink.Options{
		Hub: r, Members: r, SpokeTag: "tag:tailgate-spoke", ProxyTag: "tag:tailgate-proxy",
		WhoIs: func(context.Context, string) (hublink.Node, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.node.StableID == "" {
				return hublink.Node{}, errors.New("peer not found")
			}
			return r.node, nil
		},
		MintKey: func(_ context.Context, p hublink.Proxy) (hublink.ProxyKey, error) {
			if p.Tailnet == "nobodys" {
				return hublink.ProxyKey{}, fmt.Errorf("mint: %w", hublink.ErrNoTailnet)
			}
			return hublink.ProxyKey{Key: fmt.Sprintf("key-of-%s-%s-%d-%s", p.Cluster, p.Role, p.Replica, p.Tailnet), ControlURL: "http://control"}, nil
		},
		Discover: func(_ context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (discovery.Inventory, time.Duration, error, error) {
			switch tailnet {
			case "nobodys":
				return discovery.Inventory{}, 0, nil, fmt.Errorf("list: %w", hublink.ErrNoTailnet)
			case "broken":
				return discovery.Inventory{}, 0, nil, errors.New("rate limited")
			}
			return q.Select(discovery.Inventory{Devices: []discovery.Device{
				{FQDN: "web.example.ts.net", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Tags: []string{"tag:web"}}, {FQDN: "db.example.ts.net"},
			}}), maxAge, errors.New("old"), nil
		},
		Heartbeat: heartbeat, Log: slog.New(slog.DiscardHandler),
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.hub, r.server, r.addr = link.NewHubClient(conn), s, ln.Addr().String()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(conn.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) be(n hublink.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node = n
}

func (r *rig) say(format string, args ...any) error {
	r.told <- fmt.Sprintf(format, args...)
	return nil
}

func (r *rig) want(t *testing.T, told string) {
	t.Helper()
	for {
		select {
		case got := <-r.told:
			if got == told {
				return
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("the hub was not told %q", told)
		}
	}
}

func (r *rig) Join(ctx context.Context, c hublink.Claim) (federation.Locality, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return federation.Locality{}, r.refuse
	}
	r.owner[c.Cluster] = c.Node.StableID
	return c.Locality, nil
}

func (r *rig) Devices(_ context.Context, c federation.ClusterID, devices []hublink.Device) {
	_ = r.say("%s has devices %v", c, devices)
}

func (r *rig) Owns(c federation.ClusterID, stableID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owner[c] == stableID
}

func (r *rig) Connected(context.Context, federation.ClusterID, bool, string) {}
func (r *rig) Applied(_ context.Context, c federation.ClusterID, epoch, version uint64) {
	_ = r.say("%s applied %d.%d", c, epoch, version)
}

func (r *rig) Epoch() uint64 { return 7 }

func (r *rig) Next(ctx context.Context, _ federation.ClusterID, _, _ uint64) (linkstate.Update, error) {
	select {
	case u := <-r.update:
		return u, nil
	case <-ctx.Done():
		return linkstate.Update{}, ctx.Err()
	}
}

func (r *rig) Joined(_ context.Context, c federation.ClusterID, l federation.Locality) error {
	return r.say("%s joined from %s", c, l.Region)
}

func (r *rig) LinkState(_ context.Context, c federation.ClusterID, up bool) error {
	return r.say("link of %s up %v", c, up)
}

func (r *rig) Observed(_ context.Context, o federation.ClusterID, t federation.Target, reachable bool, age time.Duration) error {
	return r.say("%s sees %s %v %v ago", o, t, reachable, age)
}

func (r *rig) Hosts(_ context.Context, c federation.ClusterID, hosts []ledger.Host) error {
	return r.say("%s has hosts %v", c, hosts)
}

func (r *rig) Interest(_ context.Context, c federation.ClusterID, i federation.Interest) error {
	return r.say("%s wants %v %v", c, i.All, i.Services)
}

// client is a spoke.
func (r *rig) client() link.HubClient { return r.hub }

func (r *rig) join(t *testing.T, cluster string) {
	t.Helper()
	if _, err := r.client().Join(t.Context(), &link.JoinRequest{ClusterId: cluster, ApiPort: 6443, Region: "eu"}); err != nil {
		t.Fatal(err)
	}
}

func TestJoinRefusals(t *testing.T) {
	spoke := hublink.Node{StableID: "n1", Name: "spoke-1", Tags: []string{"tag:tailgate-spoke"}}
	for name, tc := range map[string]struct {
		node    hublink.Node
		refuse  error
		cluster string
		code    codes.Code
		message string
	}{
		"unknown-to-the-tailnet": {hublink.Node{}, nil, "c1", codes.Unauthenticated, "does not know you"},
		"without-the-tag":        {hublink.Node{StableID: "n9", Name: "laptop", Tags: []string{"tag:other"}}, nil, "c1", codes.PermissionDenied, "laptop does not carry tag:tailgate-spoke"},
		"bad-cluster-id":         {spoke, nil, "Cluster_1", codes.InvalidArgument, "RFC 1123"},
		"taken":                  {spoke, fmt.Errorf("%w: taken by node n2", hublink.ErrTaken), "c1", codes.AlreadyExists, "taken by node n2"},
		"not-accepted":           {spoke, fmt.Errorf("%w: kubectl patch it", hublink.ErrNotAccepted), "c1", codes.FailedPrecondition, "kubectl patch it"},
		"store-away":             {spoke, errors.New("etcd at 10.0.0.1 is down"), "c1", codes.Unavailable, "try again"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, time.Minute)
			r.be(tc.node)
			r.refuse = tc.refuse
			_, err := r.client().Join(t.Context(), &link.JoinRequest{ClusterId: tc.cluster, ApiPort: 6443})
			if status.Code(err) != tc.code || !strings.Contains(status.Convert(err).Message(), tc.message) {
				t.Errorf("Join: %v, want %v with %q", err, tc.code, tc.message)
			}
			if strings.Contains(fmt.Sprint(err), "10.0.0.1") {
				t.Errorf("the hub's inner errors reached the spoke: %v", err)
			}
		})
	}
}

func TestNobodySpeaksForAnotherMember(t *testing.T) {
	r := start(t, time.Minute)
	r.join(t, "c1")
	r.be(hublink.Node{StableID: "n2", Name: "spoke-2", Tags: []string{"tag:tailgate-spoke"}})
	w, err := r.client().Watch(t.Context(), &link.WatchRequest{ClusterId: "c1"})
	if err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("Watch: %v, want PermissionDenied", err)
	}
	if _, err := r.client().ProxyKey(t.Context(), &link.ProxyKeyRequest{ClusterId: "c1", Role: "ingress"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("ProxyKey: %v, want PermissionDenied", err)
	}
}

func TestWatchSendsUpdatesAndHeartbeats(t *testing.T) {
	r := start(t, 50*time.Millisecond)
	r.join(t, "c1")
	r.update <- linkstate.Update{Epoch: 7, Version: 3, Full: true, Upserts: []linkstate.Resource{{Peer: &federation.Peer{Cluster: "c2"}}}}
	w, err := r.client().Watch(t.Context(), &link.WatchRequest{ClusterId: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil || first.GetVersion() != 3 || !first.GetFull() || len(first.GetUpserts()) != 1 {
		t.Fatalf("first response %v, %v", first, err)
	}
	beat, err := w.Recv()
	if err != nil || beat.GetVersion() != 3 || beat.GetEpoch() != 7 || beat.GetFull() || len(beat.GetUpserts()) > 0 {
		t.Errorf("heartbeat %v, %v", beat, err)
	}
}

func TestReport(t *testing.T) {
	r := start(t, 50*time.Millisecond)
	r.join(t, "c1")
	r.want(t, "c1 joined from eu")
	stream, err := r.client().Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&link.ReportRequest{
		ClusterId:    "c1",
		AppliedEpoch: 7, AppliedVersion: 3,
		Interest: &link.Interest{All: true},
		Proxies: &link.Proxies{
			Ingress: []*link.ProxyHost{{NodeId: "p1", Addr: "100.64.0.3:9440"}}, Devices: []*link.ProxyDevice{{NodeId: "p1"}, {TailnetRef: "lab", NodeId: "p2"}},
		},
		Observations: []*link.Observation{{Cluster: "c2", Reachable: true, AgeMs: 20}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, told := range []string{"link of c1 up true", "c1 applied 7.3", "c1 has hosts [{p1 100.64.0.3:9440}]", "c1 has devices [{ p1} {lab p2}]", "c1 wants true []", "c1 sees c2 true 20ms ago"} {
		r.want(t, told)
	}
	r.want(t, "link of c1 up false") // after three silent heartbeats
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the silent stream ended with %v", err)
	}
}

func TestANewStreamTakesTheLinkOver(t *testing.T) {
	r := start(t, time.Minute)
	r.join(t, "c1")
	old, err := r.client().Report(t.Context())
	if err == nil {
		err = old.Send(&link.ReportRequest{ClusterId: "c1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, "link of c1 up true")
	young, err := r.client().Report(t.Context())
	if err == nil {
		err = young.Send(&link.ReportRequest{ClusterId: "c1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, "link of c1 up true")
	if _, err := old.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if err := young.Send(&link.ReportRequest{ClusterId: "c1", Observations: []*link.Observation{{Cluster: "c2"}}}); err != nil {
		t.Fatal(err)
	}
	for told := range r.told {
		if told == "link of c1 up false" {
			t.Fatal("the end of the old stream counted as a lost link")
		}
		if told == "c1 sees c2 false 0s ago" {
			return
		}
	}
}

func TestBadReportsAreRefused(t *testing.T) {
	for name, bad := range map[string]*link.ReportRequest{
		"host-without-address": {ClusterId: "c1", Proxies: &link.Proxies{Ingress: []*link.ProxyHost{{NodeId: "p1", Addr: "nowhere"}}}},
		"target-without-name":  {ClusterId: "c1", Observations: []*link.Observation{{}}},
		"half-a-service":       {ClusterId: "c1", Interest: &link.Interest{Services: []*link.ServiceID{{Kind: "Service"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, time.Minute)
			r.join(t, "c1")
			stream, err := r.client().Report(t.Context())
			if err == nil {
				err = stream.Send(bad)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(&link.ReportResponse{}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}

func TestProxyKey(t *testing.T) {
	r := start(t, time.Minute)
	r.join(t, "c1")
	k, err := r.client().ProxyKey(t.Context(), &link.ProxyKeyRequest{ClusterId: "c1", Role: "egress", Replica: 2, Tailnet: "acme"})
	if err != nil || k.GetKey() != "key-of-c1-egress-2-acme" || k.GetControlUrl() != "http://control" {
		t.Errorf("ProxyKey: %v, %v", k, err)
	}
	if _, err := r.client().ProxyKey(t.Context(), &link.ProxyKeyRequest{ClusterId: "c1", Role: "admin"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an unknown role: %v", err)
	}
	_, err = r.client().ProxyKey(t.Context(), &link.ProxyKeyRequest{ClusterId: "c1", Role: "egress", Tailnet: "nobodys"})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), `"nobodys"`) {
		t.Errorf("an unknown tailnet: %v", err)
	}
}

func TestDiscover(t *testing.T) {
	r := start(t, time.Minute)
	r.join(t, "c1")
	ask := func(cluster, tailnet, operator string) (*link.DiscoverResponse, error) {
		return r.client().Discover(t.Context(), &link.DiscoverRequest{
			ClusterId: cluster, Tailnet: tailnet, MaxAgeMs: 1500, Selectors: []*link.TagSelector{{Tag: "tag:web", Operator: operator}},
		})
	}
	got, err := ask("c1", "acme", "Exists")
	if err != nil || len(got.GetDevices()) != 1 || got.GetDevices()[0].GetFqdn() != "web.example.ts.net" || got.GetAgeMs() != 1500 || got.GetProblem() != "old" {
		t.Errorf("got %v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		cluster, tailnet, operator string
		want                       codes.Code
	}{
		"somebody-elses-cluster": {"c2", "acme", "Exists", codes.PermissionDenied},
		"unknown-operator":       {"c1", "acme", "Like", codes.InvalidArgument},
		"unknown-tailnet":        {"c1", "nobodys", "Exists", codes.NotFound},
		"that-cannot-be-listed":  {"c1", "broken", "Exists", codes.Unavailable},
	} {
		if _, err := ask(tc.cluster, tc.tailnet, tc.operator); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
