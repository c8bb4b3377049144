package link_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

const self = federation.ClusterID("c1")

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func service(r *rand.Rand) federation.ServiceID {
	if r.IntN(2) == 0 {
		return federation.Service(pick(r, "a", "prod"), pick(r, "web", "api"))
	}
	return federation.Listener(pick(r, "a", "prod"), pick(r, "main", "edge"), pick(r, "http", "https"))
}

func ports(r *rand.Rand) []federation.Port {
	var out []federation.Port
	for range r.IntN(3) {
		out = append(out, federation.Port{
			Name: pick(r, "", "http"), Port: uint16(1 + r.IntN(65535)), Protocol: pick(r, federation.TCP, federation.UDP),
		})
	}
	return out
}

func addr(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{100, byte(r.IntN(256)), 0, byte(r.IntN(256))})
	}
	return netip.AddrFrom16([16]byte{0xfd, 0x7a, 15: byte(r.IntN(256))})
}

func resource(r *rand.Rand) linkstate.Resource {
	cluster := func() federation.ClusterID { return pick[federation.ClusterID](r, "c1", "c2", "cluster-3") }
	switch r.IntN(4) {
	case 0:
		v := &federation.VIP{
			Owner: federation.ExportKey{Cluster: pick(r, self, ""), Service: service(r)}, Name: pick(r, "n", "local-a-web"), ServiceName: "s",
			Tailnet: pick(r, "", "prod"), TailnetRef: pick(r, "", "acme"), Ports: ports(r),
		}
		for range r.IntN(3) {
			v.Addrs = append(v.Addrs, addr(r))
		}
		return linkstate.Resource{VIP: v}
	case 1:
		s := &federation.EndpointSet{Consumer: self, Service: service(r)}
		for range r.IntN(4) {
			s.Endpoints = append(s.Endpoints, federation.Endpoint{
				Cluster: cluster(), Addr: addr(r), Ports: ports(r), Priority: r.Uint32(), Weight: r.Uint32(),
				Health: pick(r, federation.Healthy, federation.Degraded, federation.Unhealthy), Reason: pick(r, "", "Serving"), Stale: r.IntN(2) == 0, ClusterPinned: r.IntN(2) == 0,
				TailnetRef: pick(r, "", "acme"),
			})
		}
		return linkstate.Resource{EndpointSet: s}
	case 2:
		p := &federation.Peer{Cluster: cluster(), Locality: federation.Locality{Region: pick(r, "", "eu"), Zone: pick(r, "", "eu-1")}}
		for range r.IntN(3) {
			p.Ingress = append(p.Ingress, netip.AddrPortFrom(addr(r), uint16(r.IntN(65536))))
		}
		return linkstate.Resource{Peer: p}
	}
	return linkstate.Resource{Notice: &federation.Notice{Subject: pick(r, "tailnet/a", "export/x"), Reason: "R", Message: pick(r, "", "do this")}}
}

func FuzzUpdateRoundTrip(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(3), uint64(4))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		want := linkstate.Update{Epoch: r.Uint64(), Version: r.Uint64(), Base: r.Uint64(), Full: r.IntN(2) == 0}
		for range r.IntN(6) {
			x := resource(r)
			if !slices.ContainsFunc(want.Upserts, func(o linkstate.Resource) bool { return o.Key() == x.Key() }) { // a key stands once
				want.Upserts = append(want.Upserts, x)
			}
		}
		for range r.IntN(3) {
			want.Removed = append(want.Removed, resource(r).Key())
		}
		wire, err := proto.Marshal(link.FromUpdate(want))
		if err != nil {
			t.Fatal(err)
		}
		var read link.WatchResponse
		if err := proto.Unmarshal(wire, &read); err != nil {
			t.Fatal(err)
		}
		got, refused := link.ToUpdate(self, &read)
		if len(refused) > 0 {
			t.Errorf("refused what was sent: %v", refused)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	})
}

// FuzzToUpdate reads whatever comes: it must not panic, must account for every resource, and what it takes over must be
// what a hub can say: it applies, and it comes back the same when it is sent on.
func FuzzToUpdate(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	var all []linkstate.Resource
	for range 40 {
		all = append(all, resource(r))
	}
	for _, u := range []linkstate.Update{{}, {Epoch: 1, Version: 1, Full: true, Upserts: all[:1]}, {Epoch: 1, Version: 9, Base: 2, Upserts: all, Removed: []string{"peer/c2"}}} {
		wire, err := proto.Marshal(link.FromUpdate(u))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var read link.WatchResponse
		if proto.Unmarshal(data, &read) != nil {
			return // no message at all
		}
		u, refused := link.ToUpdate(self, &read)
		if len(u.Upserts)+len(refused) != len(read.GetUpserts()) {
			t.Errorf("%d upserts and %d refusals of %d", len(u.Upserts), len(refused), len(read.GetUpserts()))
		}
		if _, err := linkstate.Restore(u.Epoch, u.Version, u.Upserts); err != nil {
			t.Errorf("what was taken over is no state: %v", err)
		}
		wire, err := proto.Marshal(link.FromUpdate(u))
		var again link.WatchResponse
		if err := errors.Join(err, proto.Unmarshal(wire, &again)); err != nil {
			t.Fatal(err)
		}
		sent, refused := link.ToUpdate(self, &again)
		if len(refused) > 0 {
			t.Errorf("refused what was taken over before: %v", refused)
		}
		if d := cmp.Diff(u, sent, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
			t.Errorf("sent on (-before +after)\n%s", d)
		}
	})
}

// TestMessagesOfBefore reads what a hub of before the federated VIPs sends: it says nothing of them and has no base.
func TestMessagesOfBefore(t *testing.T) {
	u, refused := link.ToUpdate(self, &link.WatchResponse{Epoch: 1, Version: 2, Upserts: []*link.Resource{{
		Key: "vip/Service/a/web", Object: &link.Resource_Vip{Vip: &link.MemberVIP{Service: &link.ServiceID{Kind: "Service", Namespace: "a", Name: "web"}}},
	}}})
	if len(refused) > 0 || len(u.Upserts) != 1 || u.Upserts[0].VIP.Owner.Cluster != self {
		t.Fatalf("refused %v, took %v: want the cluster's own VIP", refused, u.Upserts)
	}
	state, err := linkstate.Restore(1, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if state, _, err = state.Apply(u); err != nil || state.Version() != 2 {
		t.Errorf("version %d, %v", state.Version(), err)
	}
}

func TestTheFirstOfTwoCounts(t *testing.T) {
	n := func(message string) *link.Resource {
		return &link.Resource{Key: "notice/a", Object: &link.Resource_Notice{Notice: &link.Notice{Subject: "a", Message: message}}}
	}
	u, refused := link.ToUpdate(self, &link.WatchResponse{Full: true, Upserts: []*link.Resource{n("1"), n("2")}})
	if len(u.Upserts) != 1 || u.Upserts[0].Notice.Message != "1" {
		t.Errorf("took %v", u.Upserts)
	}
	if len(refused) != 1 || refused[0].GetKey() != "notice/a" || !strings.Contains(refused[0].GetReason(), "twice") {
		t.Errorf("refused %v", refused)
	}
}

func TestBadResourcesAreRefusedByName(t *testing.T) {
	web := &link.ServiceID{Kind: "Service", Namespace: "a", Name: "web"}
	set := func(e *link.Endpoint) *link.Resource {
		return &link.Resource{Key: "endpoints/Service/a/web", Object: &link.Resource_EndpointSet{
			EndpointSet: &link.EndpointSet{Service: web, Endpoints: []*link.Endpoint{e}},
		}}
	}
	for name, tc := range map[string]struct {
		resource *link.Resource
		says     string
	}{
		"unknown-kind":  {&link.Resource{Key: "future/x"}, "does not know"},
		"key-of-others": {&link.Resource{Key: "notice/b", Object: &link.Resource_Notice{Notice: &link.Notice{Subject: "a"}}}, `"notice/a"`},
		"member-vip-as-federated": {&link.Resource{Key: "vip/Service/a/web", Object: &link.Resource_Vip{Vip: &link.MemberVIP{Service: web, Federated: true}}},
			`"federated/Service/a/web"`},
		"no-service":    {&link.Resource{Key: "vip/", Object: &link.Resource_Vip{Vip: &link.MemberVIP{}}}, "service id"},
		"bad-cluster":   {set(&link.Endpoint{Cluster: "C 2", Addr: []byte{1, 2, 3, 4}}), "invalid cluster id"},
		"short-address": {set(&link.Endpoint{Cluster: "c2", Addr: []byte{1, 2}}), "2 bytes"},
		"bad-port": {set(&link.Endpoint{Cluster: "c2", Addr: []byte{1, 2, 3, 4}, Ports: []*link.Port{{Port: 70000, Protocol: "TCP"}}}),
			"port 70000"},
		"bad-protocol": {set(&link.Endpoint{Cluster: "c2", Addr: []byte{1, 2, 3, 4}, Ports: []*link.Port{{Port: 80, Protocol: "SCTP"}}}),
			"SCTP"},
		"bad-health": {set(&link.Endpoint{Cluster: "c2", Addr: []byte{1, 2, 3, 4}, Health: 9}), "health 9"},
		"bad-ingress": {&link.Resource{Key: "peer/c2", Object: &link.Resource_Peer{Peer: &link.Peer{Cluster: "c2", Ingress: []string{"nowhere"}}}},
			"ingress host"},
	} {
		t.Run(name, func(t *testing.T) {
			good := &link.Resource{Key: "notice/a", Object: &link.Resource_Notice{Notice: &link.Notice{Subject: "a"}}}
			u, refused := link.ToUpdate(self, &link.WatchResponse{Upserts: []*link.Resource{tc.resource, good}})
			if len(refused) != 1 || refused[0].GetKey() != tc.resource.GetKey() || !strings.Contains(refused[0].GetReason(), tc.says) {
				t.Errorf("refused %v, want %s because of %q", refused, tc.resource.GetKey(), tc.says)
			}
			if len(u.Upserts) != 1 {
				t.Errorf("%d resources were taken over, want the good one", len(u.Upserts))
			}
		})
	}
}

func TestDiscoveryGoesRound(t *testing.T) {
	q := discovery.Query{
		Selectors: []discovery.TagSelector{{Tag: "tag:a", Operator: discovery.In, Values: []string{"tag:b"}}, {Tag: "tag:c", Operator: discovery.DoesNotExist}},
		Names:     []string{"stock"}, Tags: []string{"tag:shop"},
	}
	back, err := link.ToQuery(link.FromQuery(q))
	if diff := cmp.Diff(q, back); err != nil || diff != "" {
		t.Errorf("query: %v %s", err, diff)
	}
	all := discovery.Inventory{
		Devices: []discovery.Device{{FQDN: "a.ts.net", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a::1")}, Tags: []string{"tag:a"}}},
		Services: []discovery.Service{{Name: "stock", Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")}, Tags: []string{"tag:shop"}, Ports: []federation.Port{
			{Port: 443, Protocol: federation.TCP}, {Port: 53, Protocol: federation.UDP},
		}}},
	}
	found, err := link.ToInventory(link.FromInventory(all))
	if err != nil || !found.Equal(all) {
		t.Errorf("inventory: %v %+v", err, found)
	}
	for range link.MaxDiscovered {
		all.Devices = append(all.Devices, all.Devices[0])
	}
	if p := link.FromInventory(all); len(p.GetDevices()) != link.MaxDiscovered || len(p.GetServices()) != 0 || p.GetLeftOut() != 2 {
		t.Errorf("%d devices, %d services, %d left out", len(p.GetDevices()), len(p.GetServices()), p.GetLeftOut())
	}
	if _, err := link.ToInventory(&link.DiscoverResponse{Devices: []*link.Device{{Addrs: [][]byte{{1}}}}}); err == nil {
		t.Error("an address of one byte was taken")
	}
}
