package probe_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tailgate-project/tailgate/spoke/probe"
)

func TestConnectionsAreClosed(t *testing.T) {
	certificate := secret(t)
	web := func(secure bool) func(*testing.T, chan<- struct{}) netip.AddrPort {
		return func(t *testing.T, closed chan<- struct{}) netip.AddrPort {
			s := webServer(t)
			s.EnableHTTP2 = true
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					closed <- struct{}{}
				}
			}
			if secure {
				s.StartTLS()
			} else {
				s.Start()
			}
			return address(s.Listener.Addr())
		}
	}
	for name, tc := range map[string]struct {
		check probe.Check
		serve func(*testing.T, chan<- struct{}) netip.AddrPort
	}{
		"http":      {probe.Check{Kind: probe.HTTP, Path: "/200"}, web(false)},
		"http-huge": {probe.Check{Kind: probe.HTTP, Path: "/huge"}, web(false)},
		"https":     {probe.Check{Kind: probe.HTTPS, Path: "/200"}, web(true)},
		"tls": {probe.Check{Kind: probe.TLS}, func(t *testing.T, closed chan<- struct{}) netip.AddrPort {
			return serve(t, func(c net.Conn) {
				_, _ = io.Copy(io.Discard, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}}))
				closed <- struct{}{}
			})
		}},
		"connect": {probe.Check{}, func(t *testing.T, closed chan<- struct{}) netip.AddrPort {
			return serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c); closed <- struct{}{} })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{}, 1000)
			addr := tc.serve(t, closed)
			if got := first(t, probe.Target{Addrs: []netip.AddrPort{addr}, Check: &tc.check}); !got.Reachable {
				t.Fatalf("got %+v", got)
			}
			select {
			case <-closed:
			case <-time.After(patience):
				t.Error("the connection stays open")
			}
		})
	}
}

// TestNothingIsLeftOfAnEndedCheck checks each kind against one who answers and one who hangs.
func TestNothingIsLeftOfAnEndedCheck(t *testing.T) {
	certificate := secret(t)
	plain, secure := webServer(t), webServer(t)
	plain.Start()
	secure.EnableHTTP2 = true
	secure.StartTLS()
	mute := serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	well := map[probe.Kind]netip.AddrPort{
		probe.Connect: mute, probe.HTTP: address(plain.Listener.Addr()), probe.HTTPS: address(secure.Listener.Addr()),
		probe.TLS: address(secure.Listener.Addr()), probe.GRPC: healthServer(t),
		probe.GRPCS: healthServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&certificate))),
	}
	before := runtime.NumGoroutine()
	for kind, addr := range well {
		for range 20 {
			if r := first(t, probe.Target{Addrs: []netip.AddrPort{addr}, Check: &probe.Check{Kind: kind, Path: "/200"}}); !r.Reachable {
				t.Errorf("%q: %+v", kind, r)
			}
			first(t, probe.Target{Addrs: []netip.AddrPort{mute}, Check: &probe.Check{Kind: kind}, Timeout: time.Millisecond})
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); runtime.NumGoroutine() > before+5; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d goroutines more than before the checks", runtime.NumGoroutine()-before)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	b.Cleanup(server.Close)
	results := make(chan probe.Result)
	p := probe.New(probe.Options{Dial: loopback, Report: func(r probe.Result) { results <- r }})
	b.ReportAllocs()
	p.Set([]probe.Target{{
		ID: "target", Addrs: []netip.AddrPort{address(server.Listener.Addr())}, Interval: time.Nanosecond, Timeout: patience,
		Check: &probe.Check{Kind: probe.HTTP},
	}})
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	for b.Loop() {
		if r := <-results; !r.Reachable {
			b.Fatalf("%+v", r)
		}
	}
	cancel()
	go func() {
		for range results { // one may be on its way
			continue
		}
	}()
	wg.Wait()
	close(results)
}
