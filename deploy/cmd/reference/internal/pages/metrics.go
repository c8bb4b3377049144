package pages

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub"
	hubweb "github.com/tailgate-project/tailgate/hub/web"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy"
	spokeweb "github.com/tailgate-project/tailgate/spoke/web"
)

// metric is a metric as Prometheus reads it.
type metric struct {
	name, kind, help string
	labels           []string
}

// part is what has metrics, in the order of the page.
type part struct {
	heading, intro string
	metrics        []metric
}

// readMetrics asks the parts for their metrics. Each is brought to have all that it can have, for Prometheus sees a metric
// with labels only once there is a value.
func readMetrics(ctx context.Context) ([]part, error) {
	hub, err := scrape(ctx, hubMetrics())
	if err != nil {
		return nil, fmt.Errorf("ask the hub for its metrics: %w", err)
	}
	spoke, err := scrape(ctx, spokeMetrics())
	if err != nil {
		return nil, fmt.Errorf("ask the spoke for its metrics: %w", err)
	}
	proxies, err := proxyMetrics(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask a proxy for its metrics: %w", err)
	}
	return []part{
		{
			"Hub", "At `/metrics` of `hub run --status-addr`. Beside them stand those of controller-runtime (`controller_runtime_*`, `workqueue_*`, " +
				"`rest_client_*`), of Go and of the process.", hub,
		},
		{"Spoke", "At `/metrics` of `spoke run --status-addr`. Beside them stand those of Go and of the process.", spoke},
		{
			"Proxies", "At `/metrics` of `spoke proxy --status-addr`: the pods that `--proxies=statefulset` makes have it on port 8086. Beside them stand those of Go " +
				"and of the process.", proxies,
		},
	}, nil
}

// hubMetrics are those of a hub to which everything has happened once.
func hubMetrics() http.Handler {
	m := hubweb.NewMetrics("")
	m.Committed(0, []failover.Decision{{}}, nil)
	m.VIPFailed("")
	m.AdminCalled("", "", 0)
	m.LinkChanged("c", true)
	m.Ask(func(context.Context) (hub.Stats, error) {
		return hub.Stats{Exports: map[federation.ClusterID]int{"c": 1}}, nil
	})
	return m.Handler()
}

// spokeMetrics are those of a spoke with one of everything.
func spokeMetrics() http.Handler {
	return spokeweb.Handler(spokeweb.Options{
		Status: func(context.Context) (spoke.Status, error) {
			return spoke.Status{Problems: map[string]string{"": ""}}, nil
		},
		Ready:   func() error { return nil },
		Metrics: prometheus.NewRegistry(),
	})
}

// proxyMetrics are those that a proxy registers before it needs anything else.
func proxyMetrics(ctx context.Context) ([]metric, error) {
	dir, err := os.MkdirTemp("", "tailgate-reference-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	seen := &registerer{Registry: prometheus.NewRegistry()}
	// It is told to end before it asks anybody for anything.
	ended, end := context.WithCancel(ctx)
	end()
	err = proxy.Run(ended, proxy.Options{
		Role: proxy.Ingress, Socket: filepath.Join(dir, "no.sock"), StateDir: dir, Hostname: "reference", Metrics: seen, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	if err := seen.fill(); err != nil {
		return nil, err
	}
	return scrape(ctx, promhttp.HandlerFor(seen.Registry, promhttp.HandlerOpts{}))
}

// registerer remembers what is registered, to give each a value.
type registerer struct {
	*prometheus.Registry
	all []prometheus.Collector
}

// Register registers a collector.
func (r *registerer) Register(c prometheus.Collector) error {
	r.all = append(r.all, c)
	return r.Registry.Register(c)
}

// maxLabels is more than any metric has.
const maxLabels = 16

// fill gives each collector a value.
func (r *registerer) fill() error {
	for _, c := range r.all {
		var of func(...string) error
		switch c := c.(type) {
		case *prometheus.CounterVec:
			of = func(values ...string) error { _, err := c.GetMetricWithLabelValues(values...); return err }
		case *prometheus.GaugeVec:
			of = func(values ...string) error { _, err := c.GetMetricWithLabelValues(values...); return err }
		default:
			return fmt.Errorf("a proxy has a %T: teach the reference to fill it", c)
		}
		// How many labels it has it tells by what it takes.
		values := make([]string, 0, maxLabels)
		for len(values) < maxLabels && of(values...) != nil {
			values = append(values, "x")
		}
	}
	return nil
}

// scrape reads what a handler tells Prometheus, sorted by name.
func scrape(ctx context.Context, h http.Handler) ([]metric, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	a := &answer{header: http.Header{}}
	h.ServeHTTP(a, r)
	if a.code >= http.StatusBadRequest {
		return nil, fmt.Errorf("it answers %d: %s", a.code, a.body.String())
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(&a.body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	var out []metric
	for name, f := range families {
		if !strings.HasPrefix(name, "tailgate_") {
			continue
		}
		labels := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		out = append(out, metric{name, strings.ToLower(f.GetType().String()), f.GetHelp(), slices.Sorted(maps.Keys(labels))})
	}
	slices.SortFunc(out, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

// answer keeps what a handler answers.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header returns the header.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader notes the status.
func (a *answer) WriteHeader(code int) { a.code = code }

// Write keeps a part of the body.
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// labelText says what the values of a label are. A metric's own text comes before that of its part.
var labelText = map[string]string{
	"tailgate_hub_members{state}":                 "`connected` (link and API server), `stale` (one of them), `lost` (none)",
	"tailgate_hub_vips{state}":                    "`assigned` (has its addresses), `pending` (waits for them), `released` (kept for an export that went away)",
	"tailgate_hub_link_changes_total{state}":      "`up`, `down`",
	"tailgate_hub_decisions_total{reason}":        "[reasons of decisions](reasons.md#decisions)",
	"tailgate_hub_vip_errors_total{reason}":       "[reasons of VIPs](reasons.md#vips)",
	"tailgate_hub_store_commits_total{result}":    "`ok`, `error`",
	"tailgate_hub_admin_api_requests_total{code}": "status of HTTP, or `none`",
	"tailgate_proxy_dial_errors_total{reason}":    "[reasons of dials](reasons.md#dials-of-proxies)",
	"tailgate_proxy_bytes_total{direction}":       "`received`, `sent`",
	"tailgate_spoke_problem{part}":                "part of the spoke, as in `problems` of its `/status`",
	"Hub{cluster}":                                "a member",
	"Hub{method}":                                 "method of HTTP",
	"Hub{version}":                                "of the hub",
	"Hub{goversion}":                              "of the Go that built it",
	"Spoke{role}":                                 "`ingress`, `egress`",
	"Proxies{role}":                               "`ingress`, `egress`",
	"Proxies{service}":                            "Kind/namespace/name of the federated service",
	"Proxies{cluster}":                            "the cluster whose VIP it is",
	"Proxies{protocol}":                           "`TCP`, `UDP`",
}

// metricsPage is the reference of the metrics. It fails for a label that nobody explains, and for an explanation of none.
func metricsPage(parts []part) (string, error) {
	p := &page{}
	p.WriteString(generated)
	p.paragraph("# Metrics")
	p.paragraph("What hub, spokes and proxies tell Prometheus. No label has an address or the name of a connection; those of services are bounded by the " +
		"proxy's configuration and dropped with it.")
	used := map[string]bool{}
	for _, part := range parts {
		p.paragraph("## %s", part.heading)
		p.paragraph("%s", part.intro)
		p.head("Metric", "Type", "Labels", "Meaning")
		for _, m := range part.metrics {
			var labels []string
			for _, l := range m.labels {
				key := fmt.Sprintf("%s{%s}", m.name, l)
				if labelText[key] == "" {
					key = fmt.Sprintf("%s{%s}", part.heading, l)
				}
				text, ok := labelText[key]
				if !ok {
					return "", fmt.Errorf("nobody says what the label %s of %s means: add it to labelText", l, m.name)
				}
				used[key] = true
				labels = append(labels, code(l)+": "+text)
			}
			p.row(code(m.name), m.kind, strings.Join(labels, "\n"), prose(m.help))
		}
		p.WriteByte('\n')
	}
	for key := range labelText {
		if !used[key] {
			return "", fmt.Errorf("labelText explains %s, which there is not", key)
		}
	}
	return p.String(), nil
}
