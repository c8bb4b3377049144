package linkstate_test

import (
	"net/netip"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

var (
	web  = federation.Service("prod", "web")
	http = []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}
)

func vip(change func(*federation.VIP)) linkstate.Resource {
	v := &federation.VIP{
		Owner: federation.ExportKey{Cluster: "c1", Service: web}, Name: "local-prod-web", ServiceName: "local-prod-web-c1", Tailnet: "prod",
		TailnetRef: "prod-tailnet", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Ports: http,
	}
	change(v)
	return linkstate.Resource{VIP: v}
}

func set(change func(*federation.Endpoint)) linkstate.Resource {
	e := federation.Endpoint{
		Cluster: "c2", Addr: netip.MustParseAddr("100.64.0.2"), Ports: http, Weight: 1, Health: federation.Degraded, Reason: "Serving",
	}
	change(&e)
	return linkstate.Resource{EndpointSet: &federation.EndpointSet{Consumer: "c1", Service: web, Endpoints: []federation.Endpoint{e}}}
}

func peer(change func(*federation.Peer)) linkstate.Resource {
	p := &federation.Peer{
		Cluster: "c2", Locality: federation.Locality{Region: "eu", Zone: "a"}, Ingress: []netip.AddrPort{netip.MustParseAddrPort("100.64.0.9:9440")},
	}
	change(p)
	return linkstate.Resource{Peer: p}
}

func TestEqual(t *testing.T) {
	same := func(r linkstate.Resource) [2]linkstate.Resource { return [2]linkstate.Resource{r, r} }
	ofVIP := func(f func(*federation.VIP)) [2]linkstate.Resource {
		return [2]linkstate.Resource{vip(func(*federation.VIP) {}), vip(f)}
	}
	ofSet := func(f func(*federation.Endpoint)) [2]linkstate.Resource {
		return [2]linkstate.Resource{set(func(*federation.Endpoint) {}), set(f)}
	}
	ofPeer := func(f func(*federation.Peer)) [2]linkstate.Resource {
		return [2]linkstate.Resource{peer(func(*federation.Peer) {}), peer(f)}
	}
	other := federation.Service("prod", "api")
	for name, tc := range map[string]struct {
		pair [2]linkstate.Resource
		want bool
	}{
		"nothing":                {same(linkstate.Resource{}), true},
		"vip":                    {ofVIP(func(*federation.VIP) {}), true},
		"vip-of-another-service": {ofVIP(func(v *federation.VIP) { v.Owner.Service = other }), false},
		"vip-that-is-federated":  {ofVIP(func(v *federation.VIP) { v.Owner.Cluster = "" }), false},
		"vip-name":               {ofVIP(func(v *federation.VIP) { v.Name = "x" }), false},
		"vip-service-name":       {ofVIP(func(v *federation.VIP) { v.ServiceName = "x" }), false},
		"vip-tailnet":            {ofVIP(func(v *federation.VIP) { v.Tailnet = "x" }), false},
		"vip-addresses":          {ofVIP(func(v *federation.VIP) { v.Addrs = nil }), false},
		"vip-ports":              {ofVIP(func(v *federation.VIP) { v.Ports = nil }), false},
		"vip-tailnet-ref":        {ofVIP(func(v *federation.VIP) { v.TailnetRef = "x" }), false},
		"set":                    {ofSet(func(*federation.Endpoint) {}), true},
		"set-cluster":            {ofSet(func(e *federation.Endpoint) { e.Cluster = "c3" }), false},
		"set-address":            {ofSet(func(e *federation.Endpoint) { e.Addr = netip.MustParseAddr("100.64.0.3") }), false},
		"set-ports":              {ofSet(func(e *federation.Endpoint) { e.Ports = nil }), false},
		"set-priority":           {ofSet(func(e *federation.Endpoint) { e.Priority = 1 }), false},
		"set-weight":             {ofSet(func(e *federation.Endpoint) { e.Weight = 2 }), false},
		"set-health":             {ofSet(func(e *federation.Endpoint) { e.Health = federation.Healthy }), false},
		"set-reason":             {ofSet(func(e *federation.Endpoint) { e.Reason = "x" }), false},
		"set-stale":              {ofSet(func(e *federation.Endpoint) { e.Stale = true }), false},
		"set-tailnet-ref":        {ofSet(func(e *federation.Endpoint) { e.TailnetRef = "x" }), false},
		"set-pinned":             {ofSet(func(e *federation.Endpoint) { e.ClusterPinned = true }), false},
		"peer":                   {ofPeer(func(*federation.Peer) {}), true},
		"peer-cluster":           {ofPeer(func(p *federation.Peer) { p.Cluster = "c3" }), false},
		"peer-locality":          {ofPeer(func(p *federation.Peer) { p.Locality.Zone = "b" }), false},
		"peer-consumer":          {ofPeer(func(p *federation.Peer) { p.Consumer = true }), false},
		"peer-ingress":           {ofPeer(func(p *federation.Peer) { p.Ingress = nil }), false},
		"notice":                 {same(notice("a", "1")), true},
		"notice-message":         {[2]linkstate.Resource{notice("a", "1"), notice("a", "2")}, false},
		"different-kinds":        {[2]linkstate.Resource{peer(func(*federation.Peer) {}), notice("a", "1")}, false},
		"something-and-nothing":  {[2]linkstate.Resource{notice("", ""), {}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tc.pair[0], tc.pair[1]
			if got := [2]bool{a.Equal(b), b.Equal(a)}; got != [2]bool{tc.want, tc.want} {
				t.Errorf("equal %v, want %v both ways", got, tc.want)
			}
		})
	}
}

func TestKeysTellResourcesApart(t *testing.T) {
	for key, r := range map[string]linkstate.Resource{
		"vip/Service/prod/web":       vip(func(*federation.VIP) {}),
		"federated/Service/prod/web": vip(func(v *federation.VIP) { v.Owner.Cluster = "" }),
		"endpoints/Service/prod/web": set(func(*federation.Endpoint) {}),
		"peer/c2":                    peer(func(*federation.Peer) {}),
		"notice/export/x":            notice("export/x", ""),
		"":                           {},
	} {
		if got := r.Key(); got != key {
			t.Errorf("key %q, want %q", got, key)
		}
	}
	s := restored(t, 1, 1, vip(func(*federation.VIP) {}), vip(func(v *federation.VIP) { v.Owner.Cluster = "" }))
	if n := len(s.Resources()); n != 2 {
		t.Errorf("%d VIPs of a service, want the member's and the federated one", n)
	}
}
