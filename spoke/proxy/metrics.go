package proxy

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// Label names. The values of service and cluster are bounded by the configuration, and dropped with it.
const (
	labelRole      = "role"
	labelService   = "service"
	labelCluster   = "cluster"
	labelProtocol  = "protocol"
	labelDirection = "direction"
	labelReason    = "reason"
)

// metrics are a proxy's, one set per process.
type metrics struct {
	connections *prometheus.CounterVec
	open        *prometheus.GaugeVec
	bytes       *prometheus.CounterVec
	dialErrors  *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, role Role) (*metrics, error) {
	flow := []string{labelService, labelCluster, labelProtocol}
	constant := prometheus.Labels{labelRole: string(role)}
	m := &metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailgate_proxy_connections_total", ConstLabels: constant,
			Help: "Connections accepted, and UDP sessions begun.",
		}, flow),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tailgate_proxy_open_connections", ConstLabels: constant,
			Help: "Connections and UDP sessions that are open now.",
		}, flow),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailgate_proxy_bytes_total", ConstLabels: constant,
			Help: "Payload bytes: received from clients, or sent to them.",
		}, append(flow, labelDirection)),
		dialErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailgate_proxy_dial_errors_total", ConstLabels: constant,
			Help: "Connections that were reset because nobody could be reached behind the proxy.",
		}, append(flow, labelReason)),
	}
	for _, c := range []prometheus.Collector{m.connections, m.open, m.bytes, m.dialErrors} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register proxy metrics: %w", err)
		}
	}
	return m, nil
}

// subject is what a connection belongs to.
type subject struct {
	service, cluster string
	protocol         federation.Protocol
}

// flow are the metrics of one subject.
type flow struct {
	connections    prometheus.Counter
	open           prometheus.Gauge
	received, sent prometheus.Counter
	dialErrors     *prometheus.CounterVec
}

func (m *metrics) flow(s subject) flow {
	labels := prometheus.Labels{labelService: s.service, labelCluster: s.cluster, labelProtocol: string(s.protocol)}
	bytes := m.bytes.MustCurryWith(labels)
	return flow{
		connections: m.connections.With(labels),
		open:        m.open.With(labels),
		received:    bytes.WithLabelValues("received"),
		sent:        bytes.WithLabelValues("sent"),
		dialErrors:  m.dialErrors.MustCurryWith(labels),
	}
}

// begin counts a connection until the returned function is called.
func (f flow) begin() (end func()) {
	f.connections.Inc()
	f.open.Inc()
	return f.open.Dec
}

func (f flow) dialFailed(err error) { f.dialErrors.WithLabelValues(dialReason(err)).Inc() }

// forget drops the series of a subject.
func (m *metrics) forget(s subject) {
	labels := prometheus.Labels{labelService: s.service, labelCluster: s.cluster, labelProtocol: string(s.protocol)}
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.connections, m.open, m.bytes, m.dialErrors} {
		vec.DeletePartialMatch(labels)
	}
}

// errNoBackend reports a VIP that has no ready endpoint.
var errNoBackend = errors.New("no ready endpoint")

// errTold reports a remote that the spoke has called unreachable.
var errTold = errors.New("the remote is known to be unreachable")

// errFull reports a UDP port with as many sessions as it may have.
var errFull = errors.New("too many sessions")

func dialReason(err error) string {
	switch {
	case errors.Is(err, errNoBackend):
		return "no-backend"
	case errors.Is(err, errFull):
		return "full"
	case errors.Is(err, errTold):
		return "told"
	case errors.Is(err, probe.ErrUnknownName):
		return "unknown-name"
	case errors.Is(err, probe.ErrNoRoute):
		return "no-route"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "timeout"
	}
	return "failed"
}
