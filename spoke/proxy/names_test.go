package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// device joins a node that is none of Tailgate's.
func (w *world) device(hostname string) *tsnet.Server {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	node, err := tailnet.Node(ctx, tailnet.NodeOptions{
		Hostname: hostname, AuthKey: w.key("tag:other"), Dir: w.t.TempDir(), ControlURL: w.URL(), Ephemeral: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { node.Close() })
	return node
}

// serveTCP answers lines at an address of a device.
func serveTCP(t *testing.T, node *tsnet.Server, addr, name string) {
	t.Helper()
	listener, err := node.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serveLines(conn, name)
			}()
		}
	}()
}

// serveUDP answers datagrams at an address of a device.
func serveUDP(t *testing.T, node *tsnet.Server, addr, name string) {
	t.Helper()
	conn, err := node.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(fmt.Appendf(nil, "%s: %s", name, buffer[:n]), from)
		}
	}()
}

// leadTo makes the egress proxy's local address one of a name's.
func (p *pair) leadTo(name string, port uint32, protocol string) {
	p.t.Helper()
	p.lead(func(e *proxyapi.Egress) {
		e.Remote, e.Name, e.Port, e.Protocol, e.Cluster, e.Service = "", name, port, protocol, "", "Endpoint/default/db/0"
	})
}

func (p *pair) wantAnswer(want string) {
	p.t.Helper()
	poll(p.t, func() string {
		if got, err := ask("who?"); err != nil || got != want {
			return fmt.Sprintf("an answer %q: got %q, %v", want, got, err)
		}
		return ""
	})
}

func TestNamesOfTheTailnet(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	db := p.device("db")
	v4, v6 := db.TailscaleIPs()
	serveTCP(t, db, ":5432", "db")
	serveTCP(t, db, netip.AddrPortFrom(v6, 5433).String(), "db over IPv6")
	serveUDP(t, db, netip.AddrPortFrom(v4, 53).String(), "db")

	for _, name := range []string{"web-c2", "web-c2.tailgate.ts.net", "WEB-c2.Tailgate.ts.NET.", "web-c2."} {
		t.Run("vip-"+name, func(t *testing.T) {
			p.leadTo(name, 80, "TCP")
			p.wantAnswer("one: who?\n")
		})
	}
	for _, name := range []string{"db", "db.tailgate.ts.net.", "DB.tailgate.TS.net"} {
		t.Run("device-"+name, func(t *testing.T) {
			p.leadTo(name, 5432, "TCP")
			p.wantAnswer("db: who?\n")
		})
	}
	t.Run("device-by-address", func(t *testing.T) {
		p.lead(func(e *proxyapi.Egress) { e.Remote = netip.AddrPortFrom(v4, 5432).String() })
		p.wantAnswer("db: who?\n")
	})
	t.Run("device-that-answers-over-ipv6-only", func(t *testing.T) {
		p.leadTo("db", 5433, "TCP")
		p.wantAnswer("db over IPv6: who?\n")
	})
	t.Run("udp", func(t *testing.T) {
		p.leadTo("db", 53, "UDP")
		conn, err := net.Dial("udp", local)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := exchange(t, conn, "who?"); got != "db: who?" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("nobody-listens-there", func(t *testing.T) {
		p.leadTo("db", 9, "TCP")
		_, err := ask("who?")
		wantReset(t, err)
	})
	t.Run("port-that-makes-no-sense", func(t *testing.T) {
		p.leadTo("db", 0, "TCP")
		p.egress.await("problem", func() bool { return strings.Contains(p.egress.status.GetErrors()[local], "use one from 1 to 65535") })
	})
}

func TestNameThatNobodyHas(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := startPair(t, func(o *proxy.Options) {
		tryLong(o)
		if o.Role == proxy.Egress {
			o.Metrics = registry
		}
	}, backend(t, "one"))
	problem := func() string { return p.egress.status.GetErrors()[local] }

	p.leadTo("db", 5432, "TCP")
	p.egress.await("problem", func() bool { return strings.Contains(problem(), `called "db"`) })
	_, err := ask("who?")
	wantReset(t, err)
	const failed = `tailgate_proxy_dial_errors_total{cluster="",protocol="TCP",reason="unknown-name",role="egress",service="Endpoint/default/db/0"}`
	if got := gather(t, registry)[failed]; got != 1 {
		t.Errorf("%v connections counted for a name that nobody has, want 1: %v", got, gather(t, registry))
	}

	db := p.device("db")
	serveTCP(t, db, ":5432", "db")
	p.egress.await("end of the problem", func() bool { return problem() == "" })
	p.wantAnswer("db: who?\n")

	db.Close()
	for _, node := range p.Nodes() {
		if node.Hostname == "db" {
			if err := p.api.Devices().Delete(t.Context(), node.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.egress.await("problem again", func() bool { return problem() != "" })
	_, err = ask("who?")
	wantReset(t, err)

	// One more of the same name has other addresses.
	again := p.device("db")
	serveTCP(t, again, ":5432", "another db")
	p.wantAnswer("another db: who?\n")
}

func TestUDPFollowsAName(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	db := p.device("db")
	v4, _ := db.TailscaleIPs()
	serveUDP(t, db, netip.AddrPortFrom(v4, 53).String(), "db")
	p.leadTo("db", 53, "UDP")
	conn, err := net.Dial("udp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := exchange(t, conn, "who?"); got != "db: who?" {
		t.Fatalf("got %q", got)
	}
	for _, node := range p.Nodes() {
		if node.Hostname == "db" {
			if err := p.api.Devices().Delete(t.Context(), node.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	db.Close()
	again := p.device("db")
	v4, _ = again.TailscaleIPs()
	serveUDP(t, again, netip.AddrPortFrom(v4, 53).String(), "another db")
	// The client does not know, and goes on from the same port.
	if got := exchange(t, conn, "who?"); got != "another db: who?" {
		t.Errorf("got %q", got)
	}
}

func TestNames(t *testing.T) {
	var n proxy.Names
	want := func(when string, want map[string]string) {
		t.Helper()
		for name, who := range want {
			if got := n.Find(name); got != who {
				t.Errorf("%s: %q is %s, want %s", when, name, got, who)
			}
		}
	}
	want("before anything is known", map[string]string{"db": "nobody", "": "nobody"})
	n.Suffix("proxy.tail1.ts.net.")
	n.Device(1, "", "db.tail1.ts.net.")
	n.Device(2, "", "db.tail2.ts.net.") // shared from another tailnet
	n.Device(3, "", "Web.tail1.ts.net.")
	records := []tailcfg.DNSRecord{
		{Name: "web.tail1.ts.net", Value: "100.100.0.9"},
		{Name: "API.tail1.ts.net.", Type: "AAAA", Value: "fd7a::1"}, {Name: "api.tail1.ts.net", Type: "A", Value: "100.100.0.1"},
		{Name: "text.tail1.ts.net", Type: "TXT", Value: "100.100.0.2"}, {Name: "odd.tail1.ts.net", Value: "not an address"},
		{Name: "intranet", Value: "100.100.0.3"},
	}
	if !n.Record(records...) || n.Record(records...) {
		t.Error("the same records are a change, or others are none")
	}
	want("in two tailnets", map[string]string{
		"db": "device 1", "DB.": "device 1", "db.tail1.ts.net": "device 1", "db.tail2.ts.net.": "device 2", "db.tail3.ts.net": "nobody",
		"web": "device 3", "api": "[100.100.0.1 fd7a::1]", "api.tail1.ts.net": "[100.100.0.1 fd7a::1]", "text": "nobody", "odd": "nobody",
		"intranet": "[100.100.0.3]", "": "nobody", "tail1.ts.net": "nobody", ".": "nobody",
	})
	n.Device(3, "Web.tail1.ts.net.", "site.tail1.ts.net.")
	n.Device(4, "", "db.tail1.ts.net.") // the new one comes before the old one goes
	n.Device(1, "db.tail1.ts.net.", "")
	want("after changes", map[string]string{"site": "device 3", "web": "[100.100.0.9]", "db": "device 4"})
	n.Record()
	n.Suffix("proxy.renamed.ts.net")
	want("of another domain", map[string]string{"web": "nobody", "db": "nobody", "db.tail1.ts.net": "device 4"})
}
