package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls/tlstest"
)

func TestASilentSpokeIsTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := proxy.Listening(ours)
		defer c.Close()
		go func() {
			for range 5 {
				<-time.After(proxyapi.BeatInterval)
				_, _ = theirs.Write([]byte("x"))
			}
		}()
		began := time.Now()
		for {
			_, err := c.Read(make([]byte, 1))
			if err == nil {
				continue
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			break
		}
		if got, want := time.Since(began), 5*proxyapi.BeatInterval+proxyapi.QuietLimit; got != want {
			t.Errorf("given up after %v, want %v", got, want)
		}
	})
}

// cable is a way to a spoke that can be cut as a dead node does it: nobody says anything any more.
type cable struct {
	net.Listener
	to string

	mu  sync.Mutex
	cut []func()
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: ln, to: to}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.carry(t, conn)
		}
	}()
	return c
}

func (c *cable) carry(t *testing.T, near net.Conn) {
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		near.Close()
		return
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	ctx, cut := context.WithCancel(t.Context())
	c.mu.Lock()
	c.cut = append(c.cut, cut)
	c.mu.Unlock()
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			buffer := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buffer)
				if err != nil || ctx.Err() != nil {
					return // and neither end is told
				}
				_, _ = way[1].Write(buffer[:n])
			}
		}()
	}
}

// cutAll cuts the connections of now.
func (c *cable) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cut := range c.cut {
		cut()
	}
	c.cut = nil
}

// TestAProxyOverTLS has a proxy whose spoke's node dies, and is there again with other certificates.
func TestAProxyOverTLS(t *testing.T) {
	w := newWorld(t)
	s := newSpoke(t)
	ca := tlstest.NewCA(t)
	var live tlstest.Live
	live.Set(ca, tlstest.Spoke, ca)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(proxytls.Server(live.Config()))), grpc.MaxSendMsgSize(proxyapi.MaxConfigSize))
	proxyapi.RegisterSpokeServer(server, s)
	runInBackground(t, func(ctx context.Context) error {
		context.AfterFunc(ctx, server.Stop)
		return server.Serve(port)
	})
	way := newCable(t, port.Addr().String())
	o := w.options(s, proxy.Egress, "egress-c1")
	o.Socket, o.Spoke, o.TLSDir, o.Ready = "", way.Addr().String(), ca.Dir(tlstest.Proxy), &proxy.Readiness{}
	w.run(o)
	s.set(func(c *proxyapi.Config) { c.Cluster = "c1" })
	awaitReady(t, o.Ready)

	next := tlstest.NewCA(t)
	next.Write(o.TLSDir, tlstest.Proxy)
	live.Set(next, tlstest.Spoke, next)
	way.cutAll()
	s.set(func(c *proxyapi.Config) {
		c.Egress = []*proxyapi.Egress{{Listen: local, Remote: "100.100.0.1:80", Protocol: "TCP", Cluster: "c2", Service: strings.Repeat("x", 5<<20)}}
	})
	if err := o.Ready.Err(); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestReadiness(t *testing.T) {
	r := &proxy.Readiness{}
	for _, step := range []struct {
		do   func()
		says string
	}{
		{func() {}, "just started"},
		{func() { r.Applied(map[string]string{"services": io.ErrUnexpectedEOF.Error()}) }, "not offered: unexpected EOF"},
		{func() { r.Applied(map[string]string{"web-c1": "port 0"}) }, ""},
		{func() { r.Applied(nil) }, ""},
		{r.Drains, "draining"},
		{func() { r.Applied(nil) }, "draining"},
	} {
		step.do()
		got := ""
		if err := r.Err(); err != nil {
			got = err.Error()
		}
		if (got == "") != (step.says == "") || !strings.Contains(got, step.says) {
			t.Errorf("got %q, want %q", got, step.says)
		}
	}
}
