package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

func TestUDP(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(append([]byte("echo "), buffer[:n]...), from)
		}
	}()
	p.ingress.set(func(c *proxyapi.Config) {
		c.Ingress[0].Ports = append(c.Ingress[0].Ports,
			&proxyapi.IngressPort{Port: 53, Protocol: "UDP", Backends: []string{echo.LocalAddr().String()}})
	})
	p.egress.set(func(c *proxyapi.Config) {
		c.Egress = append(c.Egress, &proxyapi.Egress{
			Listen: local, Remote: netip.AddrPortFrom(p.vip, 53).String(), Protocol: "UDP", Cluster: "c2", Service: service,
		})
	})
	for n := range 3 {
		conn, err := net.Dial("udp", local)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for m := range 20 {
			want := fmt.Sprintf("echo %d.%d", n, m)
			if got := exchange(t, conn, want[5:]); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
}

func TestUDPSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, remote := newPackets(), newDatagrams()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { proxy.Relay(ctx, client, func() net.Conn { return remote }) })
		began := time.Now()
		client.in <- "one"
		if got := <-remote.written; got != "one" {
			t.Errorf("forwarded %q", got)
		}
		<-time.After(50 * time.Second)
		remote.in <- "two"
		if got := <-client.written; got != "two" {
			t.Errorf("answered %q", got)
		}
		<-remote.closed
		if got, want := time.Since(began), 110*time.Second; got != want {
			t.Errorf("the session ended after %v, want %v: a minute after the last datagram", got, want)
		}
		cancel()
		wg.Wait()
	})
}

// exchange sends a datagram until there is an answer.
func exchange(t *testing.T, conn net.Conn, message string) string {
	t.Helper()
	buffer := make([]byte, 2048)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := io.WriteString(conn, message); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(buffer); err == nil {
			return string(buffer[:n])
		}
	}
	t.Fatal("no answer")
	return ""
}
