package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

func TestIngressDrain(t *testing.T) {
	p := startPair(t, func(o *proxy.Options) {
		if o.Role == proxy.Ingress {
			o.DrainTimeout = patience
		}
	}, backend(t, "one"))
	done := make(chan struct{})
	go func() { p.stopIngress(); close(done) }()
	p.ingress.await("draining", func() bool { return p.ingress.status.GetDraining() })
	poll(t, func() string {
		if hosts := p.hosts(); len(hosts) > 0 {
			return fmt.Sprintf("withdrawal from the tailnet: its hosts are %v", hosts)
		}
		return ""
	})
	select {
	case <-done:
		t.Fatal("the proxy ended before it was told that the VIP has moved")
	default:
	}
	p.ingress.send(func(c *proxyapi.Config) { c.Ingress = nil })
	<-done
}

func TestEgressDrain(t *testing.T) {
	p := startPair(t, func(o *proxy.Options) {
		if o.Role == proxy.Egress {
			o.DrainTimeout = patience
		}
	}, backend(t, "one"))
	conn := dial(t)
	if _, err := askOn(conn, "before"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { p.stopEgress(); close(done) }()
	poll(t, func() string {
		conn, err := net.Dial("tcp", local)
		if err != nil {
			return ""
		}
		conn.Close()
		return "the end of the local address"
	})
	if answer, err := askOn(conn, "after"); answer != "one: after\n" || err != nil {
		t.Errorf("open connection while draining: got %q and %v", answer, err)
	}
	select {
	case <-done:
		t.Error("the proxy ended before its connection")
	default:
	}
	conn.Close()
	<-done
}

// hosts returns who hosts the VIP.
func (p *pair) hosts() []string {
	for _, s := range p.Services() {
		if s.Name == "svc:web-c2" {
			return s.Hosts
		}
	}
	return nil
}

func TestRefusedKey(t *testing.T) {
	w := newWorld(t)
	tests := []struct{ name, key string }{
		{name: "wrong-key", key: "tskey-auth-wrong"},
		{name: "no-key", key: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := w.options(newSpoke(t), proxy.Egress, "egress-c1")
			o.StateDir, o.AuthKey = t.TempDir(), tt.key
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := proxy.Run(ctx, o)
			if err == nil || !strings.Contains(err.Error(), "valid auth key") {
				t.Errorf("got %v, want an error that asks for a valid auth key", err)
			}
			if err != nil && tt.key != "" && strings.Contains(err.Error(), tt.key) {
				t.Errorf("the error tells the key: %v", err)
			}
			t.Log(err)
		})
	}
}

func TestSpokeComesBack(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	conn := dial(t)
	if _, err := askOn(conn, "before"); err != nil {
		t.Fatal(err)
	}
	p.egress.stop()
	p.ingress.stop()
	if answer, err := ask("away"); answer != "one: away\n" || err != nil {
		t.Errorf("while the spokes are away: got %q and %v", answer, err)
	}
	p.egress.mu.Lock()
	p.egress.status = &proxyapi.Status{}
	version := p.egress.config.GetVersion()
	p.egress.mu.Unlock()
	p.egress.start()
	p.ingress.start()
	p.egress.await("status after the spoke's restart", func() bool { return p.egress.status.GetAppliedVersion() == version })
	p.host(backend(t, "two"))
	if answer, err := ask("new"); answer != "two: new\n" || err != nil {
		t.Errorf("new configuration: got %q and %v", answer, err)
	}
	if answer, err := askOn(conn, "after"); answer != "one: after\n" || err != nil {
		t.Errorf("open connection: got %q and %v", answer, err)
	}
}

func TestRestartWithoutSpoke(t *testing.T) {
	w := newWorld(t)
	p := &pair{world: w, ingress: newSpoke(t), egress: newSpoke(t), vip: w.vip("web-c2")}
	options := w.options(p.egress, proxy.Egress, "egress-c1")
	w.run(w.options(p.ingress, proxy.Ingress, "ingress-c2"))
	stop := w.run(options)
	p.host(backend(t, "one"))
	p.lead(func(*proxyapi.Egress) {})
	p.awaitAnswer("hello")
	stop()
	p.egress.stop()
	options.AuthKey = ""
	w.run(options)
	poll(t, func() string {
		if _, err := ask("again"); err != nil {
			return "an answer through the restarted proxy: " + err.Error()
		}
		return ""
	})
}

func TestAddressInUse(t *testing.T) {
	w := newWorld(t)
	s := newSpoke(t)
	w.run(w.options(s, proxy.Egress, "egress-c1"))
	squatter, err := net.Listen("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	const other = "127.0.0.1:18081"
	s.set(func(c *proxyapi.Config) {
		c.Egress = []*proxyapi.Egress{
			{Listen: local, Remote: "100.100.0.1:80", Protocol: "TCP", Cluster: "c2"},
			{Listen: other, Remote: "100.100.0.2:80", Protocol: "TCP", Cluster: "c2"},
			{Listen: "127.0.0.1:18082", Remote: "100.100.0.2:80", Protocol: "SCTP", Cluster: "c2"},
		}
	})
	s.await("both errors", func() bool {
		return strings.Contains(s.status.GetErrors()[local], "address already in use") &&
			strings.Contains(s.status.GetErrors()["127.0.0.1:18082"], "use TCP or UDP") && len(s.status.GetErrors()) == 2
	})
	conn, err := net.Dial("tcp", other)
	if err != nil {
		t.Fatalf("the other address: %v", err)
	}
	conn.Close()
	squatter.Close()
	s.await("address taken", func() bool { return len(s.status.GetErrors()) == 1 })
}

func TestBadOptions(t *testing.T) {
	good := proxy.Options{Role: proxy.Egress, Socket: "s", StateDir: "d", Hostname: "h"}
	tests := []struct {
		name   string
		change func(*proxy.Options)
		want   string
	}{
		{name: "unknown-role", change: func(o *proxy.Options) { o.Role = "gateway" }, want: "use ingress or egress"},
		{name: "no-spoke", change: func(o *proxy.Options) { o.Socket = "" }, want: "either the path of the spoke's socket or"},
		{name: "two-spokes", change: func(o *proxy.Options) { o.Spoke = "spoke:5007" }, want: "either the path of the spoke's socket or"},
		{name: "no-certificates", change: func(o *proxy.Options) { o.Socket, o.Spoke = "", "spoke:5007" }, want: "no directory with certificates"},
		{name: "no-state-directory", change: func(o *proxy.Options) { o.StateDir = "" }, want: "no state directory"},
		{name: "no-hostname", change: func(o *proxy.Options) { o.Hostname = "" }, want: "no hostname"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good
			tt.change(&o)
			if err := proxy.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestManyServices(t *testing.T) {
	const count = 1000
	w := newWorld(t)
	s := newSpoke(t)
	w.run(w.options(s, proxy.Ingress, "ingress-c2"))
	addr := backend(t, "one")
	s.set(func(c *proxyapi.Config) { c.Cluster = "c2" })
	start := time.Now()
	s.set(func(c *proxyapi.Config) {
		for i := range count {
			c.Ingress = append(c.Ingress, &proxyapi.Ingress{
				ServiceName: fmt.Sprintf("service-%d-c2", i),
				Ports:       []*proxyapi.IngressPort{{Port: 80, Protocol: "TCP", Backends: []string{addr}}},
			})
		}
	})
	t.Logf("%d services applied in %v", count, time.Since(start))
	poll(t, func() string {
		for _, n := range w.Nodes() {
			if len(n.Services) == count {
				return ""
			}
		}
		return "a node that offers all services"
	})
	start = time.Now()
	s.set(func(c *proxyapi.Config) { c.Ingress[7].Ports[0].Backends = nil })
	t.Logf("backend change among them applied in %v", time.Since(start))
	if errs := s.status.GetErrors(); len(errs) > 0 {
		t.Errorf("errors: %v", errs)
	}
}

// TestConnectionsOfAVIPThatMoves has a VIP change its host while a client keeps a connection at rest.
func TestConnectionsOfAVIPThatMoves(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	second := newSpoke(t)
	p.run(p.options(second, proxy.Ingress, "ingress-c2-1"))
	other := backend(t, "two")
	second.set(func(c *proxyapi.Config) {
		c.Cluster = "c2"
		c.Ingress = []*proxyapi.Ingress{{ServiceName: "web-c2", Ports: []*proxyapi.IngressPort{{Port: 80, Protocol: "TCP", Backends: []string{other}}}}}
	})
	poll(t, func() string {
		if n := len(p.hosts()); n != 2 {
			return fmt.Sprintf("two hosts of the VIP, there are %d", n)
		}
		return ""
	})
	conn := dial(t)
	if answer, err := askOn(conn, "before"); answer != "one: before\n" || err != nil {
		t.Fatalf("before: %q, %v", answer, err)
	}
	go p.stopIngress()
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection at rest read %d bytes and %v; want its end once the VIP has moved", n, err)
	}
	if answer, err := ask("after"); answer != "two: after\n" || err != nil {
		t.Errorf("after: %q, %v", answer, err)
	}
}
