package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := startPair(t, func(o *proxy.Options) {
		if o.Role == proxy.Egress {
			o.Metrics = registry
		}
	}, backend(t, "one"))
	if _, err := ask("0123456789"); err != nil {
		t.Fatal(err)
	}
	p.host()
	_, err := ask("anybody?")
	wantReset(t, err)
	const labels = `{cluster="c2",protocol="TCP",role="egress",service="` + service + `"`
	poll(t, func() string {
		got := gather(t, registry)
		switch {
		case got["tailgate_proxy_connections_total"+labels+"}"] < 2:
			return fmt.Sprintf("two connections: %v", got)
		case got["tailgate_proxy_open_connections"+labels+"}"] != 0:
			return fmt.Sprintf("end of the connections: %v", got)
		case got["tailgate_proxy_dial_errors_total"+strings.Replace(labels, "role=", `reason="refused",role=`, 1)+"}"] != 1:
			return fmt.Sprintf("one refused dial: %v", got)
		case got["tailgate_proxy_bytes_total"+strings.Replace(labels, "protocol", `direction="received",protocol`, 1)+"}"] < 11:
			return fmt.Sprintf("bytes received: %v", got)
		}
		return ""
	})
	p.egress.set(func(c *proxyapi.Config) { c.Egress = nil })
	if got := gather(t, registry); len(got) > 0 {
		t.Errorf("series of a service that is gone: %v", got)
	}
}

// gather returns all values by name and labels.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
			name := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			values[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	return values
}
