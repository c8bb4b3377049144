package proxy_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

func TestChecksGoThroughTheTailnet(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	db := p.device("db")
	v4, v6 := db.TailscaleIPs()
	serveUDP(t, db, netip.AddrPortFrom(v4, 53).String(), "db")
	listener, err := db.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "db.tailgate.ts.net" || r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })

	check := func(id, name string, port uint32, c *proxyapi.Check) *proxyapi.Probe {
		return &proxyapi.Probe{Id: id, Name: name, Port: port, IntervalMs: 200, TimeoutMs: 2000, Check: c}
	}
	healthz := &proxyapi.Check{Kind: "http", Path: "/healthz"}
	udp := check("udp", "db", 53, &proxyapi.Check{})
	udp.Protocol = "UDP"
	byAddress := check("address", "", 0, &proxyapi.Check{Kind: "http", Path: "/healthz", Host: "db.tailgate.ts.net"})
	byAddress.Addrs = []string{netip.AddrPortFrom(v4, 80).String()}
	overIPv6 := check("ipv6", "", 0, &proxyapi.Check{Kind: "http", Expected: []*proxyapi.StatusRange{{Low: 503, High: 503}}})
	overIPv6.Addrs = []string{netip.AddrPortFrom(v6, 80).String()}
	p.egress.set(func(c *proxyapi.Config) {
		c.Probes = []*proxyapi.Probe{
			check("http", "db.tailgate.ts.net.", 80, healthz), byAddress, overIPv6, udp,
			check("status", "db", 80, &proxyapi.Check{Kind: "http", Path: "/other"}),
			check("refused", "db", 81, healthz),
			check("tls", "db", 80, &proxyapi.Check{Kind: "tls"}),
			check("vip", "web-c2", 80, &proxyapi.Check{}),
			check("name", "nobody", 80, healthz),
			check("grpc", "db", 80, &proxyapi.Check{Kind: "grpc"}),
			check("kind", "db", 80, &proxyapi.Check{Kind: "smtp"}),
			check("port", "db", 70000, healthz),
		}
	})
	for id, reason := range map[string]string{
		"http": "", "address": "", "ipv6": "", "udp": "", "status": "status-503", "refused": "refused", "tls": "wrong-protocol",
		"vip": "", "name": "unknown-name", "grpc": "wrong-protocol",
	} {
		p.egress.await(id, func() bool {
			r := p.egress.results[id]
			return r != nil && r.GetError() == reason && r.GetReachable() == (reason == "")
		})
	}
	for id, problem := range map[string]string{"kind": "use http, https", "port": "use one from 1 to 65535"} {
		p.egress.await(id, func() bool { return strings.Contains(p.egress.status.GetErrors()[id], problem) })
	}
}
