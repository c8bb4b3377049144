package web

import (
	"context"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub"
)

// The labels. Clusters are as many as there are members; all others have few values, known beforehand. There is none for
// services, of which there are too many.
const (
	labelCluster = "cluster"
	labelState   = "state"
	labelReason  = "reason"
	labelResult  = "result"
	labelMethod  = "method"
	labelCode    = "code"
	labelVersion = "version"
	labelGo      = "goversion"
)

var (
	members    = desc("members", "Members of the federation, by whether the hub hears of them.", labelState)
	linkUp     = desc("member_link_up", "Whether the link to a member's spoke is up.", labelCluster)
	apiUp      = desc("member_api_up", "Whether a member's API server answers.", labelCluster)
	exports    = desc("exports", "Services and listeners that a member exports.", labelCluster)
	vips       = desc("vips", "VIPs in the registry.", labelState)
	vipTasks   = desc("vip_tasks", "VIPs that the tailnets are still to be asked for.")
	epoch      = desc("epoch", "Fencing epoch under which this hub commits.")
	rebuilding = desc("rebuilding", "Whether the hub has lost its store and learns what there is.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("tailgate", "hub", name), help, labels, nil)
}

// statsTimeout bounds how long a scrape waits for the hub's loop.
const statsTimeout = 2 * time.Second

// Metrics are the hub's numbers: those that are counted as things happen, by its methods, and those that the hub is asked
// for. They are safe for concurrent use.
type Metrics struct {
	commits       *prometheus.CounterVec
	commitSeconds prometheus.Histogram
	decisions     *prometheus.CounterVec
	vipErrors     *prometheus.CounterVec
	adminRequests *prometheus.CounterVec
	adminSeconds  *prometheus.HistogramVec
	watches       prometheus.Gauge
	connections   prometheus.Gauge
	updates       prometheus.Counter
	linkChanges   *prometheus.CounterVec
	statsFailures prometheus.Counter

	counted *prometheus.Registry

	mu    sync.Mutex
	stats func(context.Context) (hub.Stats, error)
	link  map[federation.ClusterID]bool
	api   map[federation.ClusterID]bool
}

// NewMetrics returns the metrics of a hub of a version. What the hub is asked for is there from [Metrics.Ask] on.
func NewMetrics(version string) *Metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tailgate", Subsystem: "hub", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	seconds := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Namespace: "tailgate", Subsystem: "hub", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // to 16 s
		}
	}
	m := &Metrics{
		commits:       prometheus.NewCounterVec(opts("store_commits_total", "Batches given to the store."), []string{labelResult}),
		commitSeconds: prometheus.NewHistogram(seconds("store_commit_duration_seconds", "How long the store took for a batch.")),
		decisions:     prometheus.NewCounterVec(opts("decisions_total", "Decisions of failover that were stored."), []string{labelReason}),
		vipErrors:     prometheus.NewCounterVec(opts("vip_errors_total", "VIPs that could not be made or deleted; they are tried again."), []string{labelReason}),
		adminRequests: prometheus.NewCounterVec(
			opts("admin_api_requests_total", "Requests to the tailnets' admin APIs, by the status of the answer; the code none is for those without."),
			[]string{labelMethod, labelCode}),
		adminSeconds:  prometheus.NewHistogramVec(seconds("admin_api_request_duration_seconds", "How long an answer of an admin API took."), []string{labelMethod}),
		watches:       gauge("link_watches", "Streams by which spokes wait for news."),
		connections:   gauge("link_connections", "Connections of spokes."),
		updates:       prometheus.NewCounter(opts("link_updates_total", "Updates given to spokes.")),
		linkChanges:   prometheus.NewCounterVec(opts("link_changes_total", "Links to spokes that came up or went down."), []string{labelState}),
		statsFailures: prometheus.NewCounter(opts("stats_failures_total", "Scrapes to which the hub's loop did not answer in time.")),
		link:          map[federation.ClusterID]bool{}, api: map[federation.ClusterID]bool{},
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("build_info", "The hub's build; the value is 1.")), []string{labelVersion, labelGo})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	m.counted = prometheus.NewRegistry()
	m.counted.MustRegister(
		info, m.commits, m.commitSeconds, m.decisions, m.vipErrors, m.adminRequests, m.adminSeconds, m.watches, m.connections, m.updates, m.linkChanges, m.statsFailures,
	)
	return m
}

// Ask names the hub that is to be asked.
func (m *Metrics) Ask(stats func(context.Context) (hub.Stats, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats = stats
}

// Committed counts a batch that was given to the store, with its decisions if it was taken.
func (m *Metrics) Committed(took time.Duration, decisions []failover.Decision, err error) {
	m.commitSeconds.Observe(took.Seconds())
	if err != nil {
		m.commits.WithLabelValues("error").Inc()
		return
	}
	m.commits.WithLabelValues("ok").Inc()
	for i := range decisions {
		m.decisions.WithLabelValues(string(decisions[i].Reason)).Inc()
	}
}

// VIPFailed counts a VIP that could not be made or deleted, by a reason of few.
func (m *Metrics) VIPFailed(reason string) { m.vipErrors.WithLabelValues(reason).Inc() }

// AdminCalled counts a request to an admin API. The code is that of the answer's status, or none.
func (m *Metrics) AdminCalled(method, code string, took time.Duration) {
	m.adminRequests.WithLabelValues(method, code).Inc()
	m.adminSeconds.WithLabelValues(method).Observe(took.Seconds())
}

// Watching counts a stream that waits for news until the function that it returns is called.
func (m *Metrics) Watching() (done func(updated bool)) {
	m.watches.Inc()
	return func(updated bool) {
		m.watches.Dec()
		if updated {
			m.updates.Inc()
		}
	}
}

// Connected counts a spoke's connection until the function that it returns is called.
func (m *Metrics) Connected() (closed func()) {
	m.connections.Inc()
	return m.connections.Dec
}

// LinkChanged notes whether the link to a member is up.
func (m *Metrics) LinkChanged(c federation.ClusterID, up bool) {
	m.mu.Lock()
	changed := m.link[c] != up
	m.link[c] = up
	m.mu.Unlock()
	if !changed {
		return
	}
	state := "down"
	if up {
		state = "up"
	}
	m.linkChanges.WithLabelValues(state).Inc()
}

// APIChanged notes whether a member's API server answers.
func (m *Metrics) APIChanged(c federation.ClusterID, up bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.api[c] = up
}

// Forget drops a member that left.
func (m *Metrics) Forget(c federation.ClusterID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.link, c)
	delete(m.api, c)
}

// Gatherer gives all metrics, with what the hub has now. A hub that does not answer before ctx ends, or in two seconds, has
// none of those that it is asked for, rather than old ones.
func (m *Metrics) Gatherer(ctx context.Context) prometheus.Gatherer {
	m.mu.Lock()
	stats := m.stats
	m.mu.Unlock()
	if stats == nil {
		return m.counted
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s, err := stats(ctx)
	if err != nil {
		m.statsFailures.Inc()
		return m.counted
	}
	asked := prometheus.NewRegistry()
	asked.MustRegister(answer{m, s})
	return prometheus.Gatherers{m.counted, asked}
}

// Handler serves the metrics, with those of others.
func (m *Metrics) Handler(others ...prometheus.Gatherer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := append(prometheus.Gatherers{m.Gatherer(r.Context())}, others...)
		promhttp.HandlerFor(all, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
}

// answer is what the hub said when it was asked.
type answer struct {
	*Metrics
	stats hub.Stats
}

// Describe tells which metrics there are.
func (a answer) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{members, linkUp, apiUp, exports, vips, vipTasks, epoch, rebuilding} {
		ch <- d
	}
}

// Collect makes them.
func (a answer) Collect(ch chan<- prometheus.Metric) { a.gauges(ch, a.stats) }

// gauges makes the metrics of what the hub has.
func (m *Metrics) gauges(ch chan<- prometheus.Metric, s hub.Stats) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	states := map[string]int{"connected": 0, "stale": 0, "lost": 0}
	for c, n := range s.Exports {
		gauge(exports, float64(n), string(c))
		gauge(linkUp, float(m.link[c]), string(c))
		gauge(apiUp, float(m.api[c]), string(c))
		switch {
		case m.link[c] && m.api[c]:
			states["connected"]++
		case m.link[c] || m.api[c]:
			states["stale"]++
		default:
			states["lost"]++
		}
	}
	for state, n := range states {
		gauge(members, float64(n), state)
	}
	for _, state := range hub.VIPStates {
		gauge(vips, float64(s.VIPs[state]), string(state))
	}
	gauge(vipTasks, float64(s.Tasks))
	gauge(epoch, float64(s.Epoch))
	gauge(rebuilding, float(s.Rebuilding))
}

func float(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
