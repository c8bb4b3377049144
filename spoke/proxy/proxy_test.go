package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

const service = "Service/default/web"

// pair is an ingress proxy that hosts one VIP and an egress proxy that leads to it.
type pair struct {
	*world
	ingress, egress *spoke
	vip             netip.Addr

	stopIngress, stopEgress func()
}

// local is the egress proxy's address for TCP port 80 of the VIP, and for UDP port 53.
const local = "127.0.0.1:18080"

// newPair returns a pair through which traffic flows to the backends.
func newPair(t *testing.T, backends ...string) *pair {
	t.Helper()
	return startPair(t, func(*proxy.Options) {}, backends...)
}

// startPair is newPair with options of its own.
func startPair(t *testing.T, change func(*proxy.Options), backends ...string) *pair {
	t.Helper()
	w := newWorld(t)
	p := &pair{world: w, ingress: newSpoke(t), egress: newSpoke(t), vip: w.vip("web-c2")}
	in, out := w.options(p.ingress, proxy.Ingress, "ingress-c2"), w.options(p.egress, proxy.Egress, "egress-c1")
	change(&in)
	change(&out)
	p.stopIngress, p.stopEgress = w.run(in), w.run(out)
	p.host(backends...)
	p.lead(func(*proxyapi.Egress) {})
	p.awaitAnswer("hello")
	return p
}

// host sets the backends.
func (p *pair) host(backends ...string) {
	p.t.Helper()
	p.ingress.set(func(c *proxyapi.Config) {
		c.Cluster = "c2"
		c.Ingress = []*proxyapi.Ingress{{ServiceName: "web-c2", Ports: []*proxyapi.IngressPort{
			{Port: 80, Protocol: "TCP", Backends: backends},
		}}}
	})
}

// lead sets the way from the local address to the VIP.
func (p *pair) lead(change func(*proxyapi.Egress)) {
	p.t.Helper()
	entry := &proxyapi.Egress{
		Listen: local, Remote: netip.AddrPortFrom(p.vip, 80).String(), Protocol: "TCP", Cluster: "c2", Service: service,
	}
	change(entry)
	p.egress.set(func(c *proxyapi.Config) {
		c.Cluster = "c1"
		c.Egress = []*proxyapi.Egress{entry}
	})
}

func dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := tryDial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// tryDial connects to the local address. A proxy that resets at once may do so before the system says that there is a
// connection.
func tryDial() (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", local)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patience))
}

// ask sends a line over a connection of its own and returns the first line of the answer.
func ask(line string) (string, error) {
	conn, err := tryDial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return askOn(conn, line)
}

func askOn(conn net.Conn, line string) (string, error) {
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// awaitAnswer asks until there is an answer: the tailnet takes its time to route a new VIP.
func (p *pair) awaitAnswer(line string) {
	p.t.Helper()
	poll(p.t, func() string {
		if _, err := ask(line); err != nil {
			return "an answer through the proxies: " + err.Error()
		}
		return ""
	})
}

func wantReset(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset of the connection", err)
	}
}

func TestTrafficReachesBackend(t *testing.T) {
	p := startPair(t, tryLong, backend(t, "one"))

	t.Run("half-close-is-passed-on", func(t *testing.T) {
		conn := dial(t)
		if _, err := io.WriteString(conn, "last words\n"); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if got, want := string(answer), "one: last words\none: bye\n"; got != want || err != nil {
			t.Errorf("got %q and %v, want %q", got, err, want)
		}
	})
	t.Run("backends-change-under-open-connections", func(t *testing.T) {
		conn := dial(t)
		if answer, err := askOn(conn, "before"); answer != "one: before\n" || err != nil {
			t.Fatalf("got %q and %v", answer, err)
		}
		p.host(backend(t, "two"))
		if answer, err := ask("new"); answer != "two: new\n" || err != nil {
			t.Errorf("new connection: got %q and %v, want the new backend", answer, err)
		}
		if answer, err := askOn(conn, "after"); answer != "one: after\n" || err != nil {
			t.Errorf("open connection: got %q and %v, want the old backend", answer, err)
		}
	})
	t.Run("backends-take-turns-and-dead-ones-are-passed-over", func(t *testing.T) {
		dead, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dead.Close()
		p.host(backend(t, "a"), dead.Addr().String(), backend(t, "b"))
		seen := map[string]int{}
		for range 6 {
			answer, err := ask("x")
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(answer, ":")
			seen[name]++
		}
		if seen["a"] == 0 || seen["b"] == 0 || seen["a"]+seen["b"] != 6 {
			t.Errorf("answers came from %v", seen)
		}
	})
	t.Run("no-backends-reset-at-once", func(t *testing.T) {
		p.host()
		_, err := ask("anybody?")
		wantReset(t, err)
	})
	t.Run("removed-port-resets-and-connections-go-on", func(t *testing.T) {
		p.host(backend(t, "last"))
		conn := dial(t)
		if _, err := askOn(conn, "before"); err != nil {
			t.Fatal(err)
		}
		p.ingress.set(func(c *proxyapi.Config) { c.Ingress[0].Ports[0].Port = 81 })
		_, err := ask("new")
		wantReset(t, err)
		if answer, err := askOn(conn, "after"); answer != "last: after\n" || err != nil {
			t.Errorf("open connection: got %q and %v", answer, err)
		}
	})
	t.Run("removed-listener-closes-and-connections-go-on", func(t *testing.T) {
		p.host(backend(t, "last"))
		conn := dial(t)
		if _, err := askOn(conn, "before"); err != nil {
			t.Fatal(err)
		}
		p.egress.set(func(c *proxyapi.Config) { c.Egress = nil })
		if conn, err := net.Dial("tcp", local); err == nil {
			conn.Close()
			t.Error("the local address still accepts connections")
		}
		if answer, err := askOn(conn, "after"); answer != "last: after\n" || err != nil {
			t.Errorf("open connection: got %q and %v", answer, err)
		}
	})
}

func TestResetFlagResets(t *testing.T) {
	p := startPair(t, tryLong, backend(t, "one"))
	conn := dial(t)
	if _, err := askOn(conn, "before"); err != nil {
		t.Fatal(err)
	}
	p.lead(func(e *proxyapi.Egress) { e.Reset_ = true })
	_, err := conn.Read(make([]byte, 1)) // nobody else says anything
	wantReset(t, err)
	_, err = ask("new")
	wantReset(t, err)
	p.lead(func(*proxyapi.Egress) {})
	if answer, err := ask("again"); answer != "one: again\n" || err != nil {
		t.Errorf("after the reset: got %q and %v", answer, err)
	}
}

func TestDeadRemoteResets(t *testing.T) {
	w := newWorld(t)
	p := &pair{world: w, ingress: newSpoke(t), egress: newSpoke(t), vip: w.vip("web-c2")}
	remote := w.spawn(w.options(p.ingress, proxy.Ingress, "ingress-c2"))
	w.run(w.options(p.egress, proxy.Egress, "egress-c1"))
	p.host(backend(t, "one"))
	p.lead(func(*proxyapi.Egress) {})
	p.awaitAnswer("hello")
	if err := remote.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Wait(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := ask("anybody?")
	took := time.Since(start)
	wantReset(t, err)
	if took < time.Second {
		t.Errorf("the connection was reset after %v, though the VIP may have been about to move", took)
	}
	t.Logf("reset after %v", took)
}
