package deploy_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	corev1 "k8s.io/api/core/v1"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub"
	hubweb "github.com/tailgate-project/tailgate/hub/web"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy"
	spokeweb "github.com/tailgate-project/tailgate/spoke/web"
)

// metrics are the labels of all metrics there are, by the names that Prometheus stores.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	m := hubweb.NewMetrics("v1")
	m.Committed(time.Second, []failover.Decision{{Reason: failover.Serving}}, nil)
	m.VIPFailed("x")
	m.AdminCalled("GET", "200", time.Second)
	m.LinkChanged("c", true)
	m.Ask(func(context.Context) (hub.Stats, error) {
		return hub.Stats{Exports: map[federation.ClusterID]int{"c": 1}}, nil
	})
	out := map[string][]string{"process_resident_memory_bytes": nil, "process_cpu_seconds_total": nil} // of the Prometheus client
	scrape(t, m.Handler(), out)
	scrape(t, spokeweb.Handler(spokeweb.Options{
		Status: func(context.Context) (spoke.Status, error) {
			return spoke.Status{Problems: map[string]string{"x": "y"}}, nil
		},
		Ready:   func() error { return nil },
		Metrics: prometheus.NewRegistry(),
	}), out)
	seen := &described{Registry: prometheus.NewRegistry(), into: out}
	ended, end := context.WithCancel(t.Context())
	end() // before it asks anybody for anything
	dir := t.TempDir()
	if err := proxy.Run(ended, proxy.Options{
		Role: proxy.Ingress, Socket: filepath.Join(dir, "x.sock"), StateDir: dir, Hostname: "x", Metrics: seen, Logger: slog.New(slog.DiscardHandler),
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func scrape(t *testing.T, h http.Handler, into map[string][]string) {
	t.Helper()
	page := httptest.NewRecorder()
	h.ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if f.GetMetric()[0].GetHistogram() == nil {
			into[name] = labels
			continue
		}
		into[name+"_bucket"] = append(slices.Clone(labels), "le")
		into[name+"_sum"], into[name+"_count"] = labels, labels
	}
}

// described notes what is registered, with its labels.
type described struct {
	*prometheus.Registry
	into map[string][]string
}

var description = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

func (d *described) Register(c prometheus.Collector) error {
	all := make(chan *prometheus.Desc, 16)
	c.Describe(all)
	close(all)
	for desc := range all {
		if m := description.FindStringSubmatch(desc.String()); m != nil {
			d.into[m[1]] = strings.Split(m[2], ",")
		}
	}
	return d.Registry.Register(c)
}

// panel is what a dashboard shows.
type panel struct {
	ID                       int
	Title, Type, Description string
	Targets                  []struct{ Expr, LegendFormat string }
	GridPos                  struct{ X, Y, W, H int }
}

func dashboard(t *testing.T, name string) []panel {
	t.Helper()
	objects := rendered(t, name, deploy.Options{Values: map[string]any{"dashboard": map[string]any{"enabled": true}}})
	var out struct {
		UID, Title string
		Panels     []panel
	}
	config := as[corev1.ConfigMap](t, only(t, objects, "ConfigMap", name+"-dashboard"))
	if config.Labels["grafana_dashboard"] != "1" {
		t.Error("Grafana's sidecar does not find it")
	}
	if err := json.Unmarshal([]byte(config.Data[name+".json"]), &out); err != nil {
		t.Fatal(err)
	}
	if out.UID == "" || out.Title == "" || len(out.Panels) < 10 {
		t.Errorf("dashboard %q %q with %d panels", out.UID, out.Title, len(out.Panels))
	}
	return out.Panels
}

var (
	metricName = regexp.MustCompile(`\b(?:tailgate|process)_[a-z0-9_]+\b`)
	grouping   = regexp.MustCompile(`\b(?:by|on|group_left) ?\(([^)]*)\)`)
	matcher    = regexp.MustCompile(`[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)`)
	legend     = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
)

// TestDashboardsShowWhatThereIs holds each query to the metrics that the programs have, and to their labels.
func TestDashboardsShowWhatThereIs(t *testing.T) {
	known := metrics(t)
	shown := map[string]bool{}
	for _, name := range charts {
		for _, p := range dashboard(t, name) {
			if p.Type == "row" {
				continue
			}
			if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
				t.Errorf("%s: panel %d has no title, no description or no query", name, p.ID)
			}
			for _, target := range p.Targets {
				for _, f := range queryFindings(known, target.Expr, target.LegendFormat) {
					t.Errorf("%s: %s: %s", name, p.Title, f)
				}
				for _, m := range metricName.FindAllString(target.Expr, -1) {
					shown[m] = true
				}
			}
		}
	}
	for _, m := range slices.Sorted(maps.Keys(known)) {
		base := strings.TrimSuffix(strings.TrimSuffix(m, "_sum"), "_count")
		if !shown[m] && !shown[base+"_bucket"] {
			t.Errorf("no dashboard shows %s", m)
		}
	}
}

// queryFindings is what is wrong about a query.
func queryFindings(known map[string][]string, expr, caption string) []string {
	var out []string
	labels := map[string]bool{"instance": true, "job": true, "pod": true, "namespace": true, "": true}
	names := metricName.FindAllString(expr, -1)
	if len(names) == 0 {
		out = append(out, "asks for no metric: "+expr)
	}
	for _, m := range names {
		of, ok := known[m]
		if !ok {
			out = append(out, "there is no metric "+m)
		}
		for _, l := range of {
			labels[l] = true
		}
	}
	var used []string
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		used = append(used, strings.Split(m[1], ",")...)
	}
	for _, m := range append(matcher.FindAllStringSubmatch(expr, -1), legend.FindAllStringSubmatch(caption, -1)...) {
		used = append(used, m[1])
	}
	for _, l := range used {
		if l = strings.TrimSpace(l); !labels[l] {
			out = append(out, "no metric of this query has the label "+l)
		}
	}
	for _, pair := range []string{"()", "[]", "{}"} {
		if strings.Count(expr, pair[:1]) != strings.Count(expr, pair[1:]) {
			out = append(out, "brackets do not match: "+expr)
		}
	}
	return out
}

func TestBadQueriesAreFound(t *testing.T) {
	known := metrics(t)
	for name, tc := range map[string]struct{ expr, legend, want string }{
		"unknown-metric":  {`sum(tailgate_hub_no_such)`, "", "there is no metric tailgate_hub_no_such"},
		"no-metric":       {`vector(0)`, "", "asks for no metric"},
		"unknown-group":   {`sum by (service) (tailgate_hub_vips)`, "", "the label service"},
		"unknown-matcher": {`tailgate_hub_vips{tailnet="x"}`, "", "the label tailnet"},
		"unknown-legend":  {`tailgate_hub_vips`, "{{reason}}", "the label reason"},
		"brackets":        {`sum(tailgate_hub_vips`, "", "brackets do not match"},
		"no-buckets":      {`rate(tailgate_hub_decisions_total_bucket[5m])`, "", "there is no metric"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(queryFindings(known, tc.expr, tc.legend), "; ")
			if !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
		})
	}
	if got := queryFindings(known, `histogram_quantile(0.9, sum by (le, instance) (rate(tailgate_hub_store_commit_duration_seconds_bucket{instance="x"}[5m])))`, "{{instance}}"); len(got) > 0 {
		t.Errorf("found %q in a good query", got)
	}
}

// TestPanelsHaveRoom holds the panels to the width of 24 and to rectangles of their own.
func TestPanelsHaveRoom(t *testing.T) {
	for _, name := range charts {
		taken := map[[2]int]int{}
		for _, p := range dashboard(t, name) {
			g := p.GridPos
			if g.X+g.W > 24 {
				t.Errorf("%s: panel %d is too wide", name, p.ID)
			}
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other, ok := taken[[2]int{x, y}]; ok {
						t.Fatalf("%s: panels %d and %d overlap", name, other, p.ID)
					}
					taken[[2]int{x, y}] = p.ID
				}
			}
		}
	}
}
