// Package clusterstest is test equipment: it stands for the proxy by which a spoke serves its API server to the hub.
package clusterstest

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"

	"k8s.io/client-go/rest"
)

// ServeAPI serves an API server in plain HTTP/2, with the credentials of config,
// until the test ends.
func ServeAPI(t *testing.T, config *rest.Config) netip.AddrPort {
	t.Helper()
	upstream, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols: protocols,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
		Handler: &httputil.ReverseProxy{
			Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport:     upstream,
			FlushInterval: -1,
			ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, 0),
		},
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}
