package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	tailnetcontroller "github.com/tailgate-project/tailgate/hub/controllers/tailnet"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/hub/web"
)

// wantMetrics compares all lines of a metric with those that it should have, each without the metric's name.
func wantMetrics(t *testing.T, m *web.Metrics, name string, want ...string) {
	t.Helper()
	page := httptest.NewRecorder()
	m.Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var got []string
	for line := range strings.Lines(page.Body.String()) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), name); ok {
			got = append(got, rest)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", name, diff)
	}
}

// oneBatch is a store that takes batches when it is told to.
type oneBatch struct {
	store.Store
	commit     func() error
	superseded error
}

func (s oneBatch) Commit(context.Context, ledger.Batch) error { return s.commit() }
func (s oneBatch) Superseded(context.Context) error           { return s.superseded }

func serving(now func() time.Time) *readiness {
	r := newReadiness(now)
	r.serving()
	return r
}

func TestStoreIsMetered(t *testing.T) {
	now := time.Now()
	m, ready := web.NewMetrics("v1"), serving(func() time.Time { return now })
	var during error
	s := meteredStore{oneBatch{commit: func() error {
		now = now.Add(storePatience + time.Minute)
		during = ready.get()
		return nil
	}}, m, ready}
	batch := ledger.Batch{Journal: []failover.Decision{{Reason: failover.Drained}}}
	if err := s.Commit(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if during == nil || !strings.Contains(during.Error(), "the store has not taken a batch for 1m") {
		t.Errorf("while the store hangs, readyz says %v", during)
	}
	if err := ready.get(); err != nil {
		t.Errorf("after it, readyz says %v", err)
	}
	s.Store = oneBatch{commit: func() error { return store.ErrFenced }}
	if err := s.Commit(t.Context(), batch); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the error is lost: %v", err)
	}
	if err := ready.get(); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the epoch is not held any more, and readyz says %v", err)
	}
	wantMetrics(t, m, "tailgate_hub_decisions_total", `{reason="Drained"} 1`)
	wantMetrics(t, m, "tailgate_hub_store_commits_total", `{result="error"} 1`, `{result="ok"} 1`)
}

func TestReadiness(t *testing.T) {
	ready := newReadiness(time.Now)
	for _, step := range []struct {
		name string
		do   func()
		want string // "" for ready
	}{
		{"at-first", func() {}, "just started"},
		{"standing-by", func() { ready.wait("another hub leads: %s; this one waits", "hub-1") }, "another hub leads: hub-1"},
		{"reading", func() { ready.wait("the management cluster's objects are being read") }, "management cluster"},
		{"serving", ready.serving, ""},
		{"superseded", func() {
			s := meteredStore{oneBatch{superseded: store.ErrFenced}, web.NewMetrics("v1"), ready}
			_ = s.Superseded(t.Context())
		}, "newer epoch"},
		{"for-good", ready.serving, "newer epoch"},
	} {
		step.do()
		if err := ready.get(); (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
	}
}

// refusing is a provider that fails.
type refusing struct{ err error }

func (p refusing) EnsureVIP(context.Context, federation.VIP) ([]netip.Addr, error) { return nil, p.err }
func (p refusing) DeleteVIP(context.Context, federation.VIP) error                 { return p.err }
func (p refusing) ListVIPs(context.Context) ([]federation.VIP, error)              { return nil, nil }
func (p refusing) Refusal(federation.VIP, error) (federation.Notice, bool) {
	return federation.Notice{}, false
}

func TestRefusalsAreCountedByReason(t *testing.T) {
	m := web.NewMetrics("v1")
	ended, end := context.WithCancel(t.Context())
	end()
	for _, err := range []error{
		tailnetcontroller.ErrNoTailnet, &tailnet.Error{Kind: tailnet.ErrRateLimited}, fmt.Errorf("make it: %w", tailnet.ErrForeignVIP), errors.New("secret-value"), nil,
	} {
		p := meteredProvider{refusing{err}, m}
		if _, got := p.EnsureVIP(t.Context(), federation.VIP{}); !errors.Is(got, err) {
			t.Errorf("error %v, want %v", got, err)
		}
		_ = p.DeleteVIP(ended, federation.VIP{}) // the hub ends: that is no failure
	}
	wantMetrics(t, m, "tailgate_hub_vip_errors_total",
		`{reason="Other"} 1`, `{reason="RateLimited"} 1`, `{reason="TailnetNotFound"} 1`, `{reason="VIPConflict"} 1`)
}

func TestAdminRequestsAreCountedWithoutSecrets(t *testing.T) {
	m := web.NewMetrics("v1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }))
	c := http.Client{Transport: newAdminTransport(m)}
	get := func() {
		res, err := c.Get(server.URL + "/api/v2/secret-path?key=secret-key")
		if err == nil {
			_ = res.Body.Close()
		}
	}
	get()
	server.Close()
	get()
	wantMetrics(t, m, "tailgate_hub_admin_api_requests_total", `{code="429",method="GET"} 1`, `{code="none",method="GET"} 1`)
	page := httptest.NewRecorder()
	m.Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if strings.Contains(page.Body.String(), "secret") {
		t.Errorf("a secret is in the metrics:\n%s", page.Body)
	}
}

func TestConnectionsAreCountedWhileTheyAreOpen(t *testing.T) {
	m := web.NewMetrics("v1")
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := meteredListener{inner, m}
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want := func(n string) {
		t.Helper()
		wantMetrics(t, m, "tailgate_hub_link_connections", " "+n)
	}
	want("1")
	for range 2 { // gRPC may close twice
		_ = served.Close()
	}
	want("0")
	if err := errors.Join(client.Close(), l.Close()); err != nil {
		t.Error(err)
	}
}

// TestFrontAnswersFromTheStart asks a hub that is not there yet, and then one that is.
func TestFrontAnswersFromTheStart(t *testing.T) {
	ready := newReadiness(time.Now)
	f := newFront(ready, web.NewMetrics("v1"))
	ask := func(path string, code int, body string) {
		t.Helper()
		page := httptest.NewRecorder()
		f.ServeHTTP(page, httptest.NewRequest(http.MethodGet, path, nil))
		if page.Code != code || !strings.Contains(page.Body.String(), body) {
			t.Errorf("%s: %d %q, want %d and %q", path, page.Code, page.Body, code, body)
		}
	}
	ready.wait("the store is being opened")
	ask("/healthz", http.StatusOK, "ok")
	ask("/readyz", http.StatusServiceUnavailable, "the store is being opened")
	ask("/metrics", http.StatusOK, "tailgate_hub_build_info")
	ask("/api/v1/journal", http.StatusServiceUnavailable, "/readyz says why")
	f.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "journal") }))
	ready.serving()
	ask("/api/v1/journal", http.StatusOK, "journal")
	ask("/readyz", http.StatusOK, "ok")
}
