package web_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/web"
)

// used returns metrics in which everything has happened once.
func used() *web.Metrics {
	m := web.NewMetrics("v1.2.3")
	m.Ask(func(context.Context) (hub.Stats, error) {
		return hub.Stats{
			Epoch: 7, Tasks: 3, Exports: map[federation.ClusterID]int{"c1": 5, "c2": 0, "c3": 1}, VIPs: map[hub.VIPState]int{hub.VIPAssigned: 6, hub.VIPReleased: 1},
		}, nil
	})
	m.Committed(time.Millisecond, []failover.Decision{{Reason: failover.Serving}, {Reason: failover.Drained}, {Reason: failover.Drained}}, nil)
	m.Committed(time.Millisecond, []failover.Decision{{Reason: failover.Serving}}, errors.New("disk full"))
	m.VIPFailed("RateLimited")
	m.AdminCalled(http.MethodPut, "200", time.Millisecond)
	m.AdminCalled(http.MethodPut, "none", time.Millisecond)
	m.Watching()(true)
	m.Watching()
	m.Connected()()
	m.Connected()
	m.LinkChanged("c1", true)
	m.LinkChanged("c1", true) // no news
	m.LinkChanged("c2", true)
	m.LinkChanged("c2", false)
	m.APIChanged("c1", true)
	m.APIChanged("c2", true)
	m.LinkChanged("left", true)
	m.APIChanged("left", true)
	m.Forget("left")
	return m
}

func TestMetricsAreNamedByConvention(t *testing.T) {
	page := httptest.NewRecorder()
	used().Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	problems, err := promlint.New(page.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestMetricsCount reads the page as Prometheus does.
func TestMetricsCount(t *testing.T) {
	page := httptest.NewRecorder()
	used().Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	got := map[string]bool{}
	for line := range strings.Lines(page.Body.String()) {
		got[strings.TrimSpace(line)] = true
	}
	for _, want := range []string{
		`tailgate_hub_members{state="connected"} 1`, `tailgate_hub_members{state="stale"} 1`, `tailgate_hub_members{state="lost"} 1`,
		`tailgate_hub_member_link_up{cluster="c1"} 1`, `tailgate_hub_member_link_up{cluster="c2"} 0`, `tailgate_hub_member_api_up{cluster="c2"} 1`,
		`tailgate_hub_exports{cluster="c1"} 5`, `tailgate_hub_exports{cluster="c2"} 0`,
		`tailgate_hub_vips{state="assigned"} 6`, `tailgate_hub_vips{state="pending"} 0`, `tailgate_hub_vips{state="released"} 1`,
		`tailgate_hub_vip_tasks 3`, `tailgate_hub_vip_errors_total{reason="RateLimited"} 1`,
		`tailgate_hub_epoch 7`, `tailgate_hub_rebuilding 0`,
		`tailgate_hub_store_commits_total{result="ok"} 1`, `tailgate_hub_store_commits_total{result="error"} 1`, `tailgate_hub_store_commit_duration_seconds_count 2`,
		`tailgate_hub_decisions_total{reason="Drained"} 2`, `tailgate_hub_decisions_total{reason="Serving"} 1`,
		`tailgate_hub_admin_api_requests_total{code="200",method="PUT"} 1`, `tailgate_hub_admin_api_requests_total{code="none",method="PUT"} 1`,
		`tailgate_hub_link_watches 1`, `tailgate_hub_link_updates_total 1`, `tailgate_hub_link_connections 1`,
		`tailgate_hub_link_changes_total{state="up"} 3`, `tailgate_hub_link_changes_total{state="down"} 1`,
		`tailgate_hub_stats_failures_total 0`,
	} {
		if !got[want] {
			t.Errorf("%s is not there", want)
		}
	}
	if body := page.Body.String(); strings.Contains(body, `"left"`) || !strings.Contains(body, `tailgate_hub_build_info{goversion="go`) || !strings.Contains(body, `version="v1.2.3"} 1`) {
		t.Errorf("want the build, and nothing of a member that left:\n%s", body)
	}
	if t.Failed() {
		t.Log(page.Body.String())
	}
}

// TestMetricsOfABusyHub: what is counted is there when the hub does not answer, and what is asked for is not made up.
func TestMetricsOfABusyHub(t *testing.T) {
	m := used()
	m.Ask(func(context.Context) (hub.Stats, error) { return hub.Stats{}, context.DeadlineExceeded })
	page := httptest.NewRecorder()
	m.Handler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body := page.Body.String()
	if page.Code != http.StatusOK || !strings.Contains(body, "tailgate_hub_stats_failures_total 1") || !strings.Contains(body, "tailgate_hub_decisions_total") {
		t.Errorf("%d:\n%s", page.Code, body)
	}
	for _, absent := range []string{"tailgate_hub_vips", "tailgate_hub_epoch", "tailgate_hub_members"} {
		if strings.Contains(body, absent) {
			t.Errorf("%s is there, though the hub did not say it", absent)
		}
	}
}

func TestReadySaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		why  error
		code int
		body string
	}{
		"ready":     {nil, http.StatusOK, "ok\n"},
		"not-ready": {errors.New("another hub leads: hub-1"), http.StatusServiceUnavailable, "another hub leads: hub-1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			page := httptest.NewRecorder()
			web.Ready(func() error { return tc.why }).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			if page.Code != tc.code || page.Body.String() != tc.body {
				t.Errorf("%d %q, want %d %q", page.Code, page.Body, tc.code, tc.body)
			}
		})
	}
}
