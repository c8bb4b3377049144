package admin

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

func (h *handler) clusters(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "json" {
		h.clustersJSON(w)
		return
	}
	var b strings.Builder
	for _, c := range h.Server.Clusters() {
		fmt.Fprintf(&b, "%s::observability_name::%s\n", c.Spec.Name, c.Spec.Name)
		for _, s := range c.Statuses() {
			for _, kv := range [][2]string{
				{"rq_active", strconv.FormatInt(s.Active, 10)}, {"hostname", s.Hostname}, {"health_flags", flags(s)},
				{"weight", strconv.Itoa(int(s.Weight))}, {"locality", s.Locality}, {"priority", strconv.Itoa(s.Priority)},
			} {
				fmt.Fprintf(&b, "%s::%s::%s::%s\n", c.Spec.Name, s.Address, kv[0], kv[1])
			}
		}
	}
	text(w, http.StatusOK, b.String())
}

// flags are the health flags as Envoy writes them.
func flags(s upstream.Status) string {
	var all []string
	if s.FailedCheck {
		all = append(all, "/failed_active_hc")
	}
	if s.Ejected {
		all = append(all, "/failed_outlier_check")
	}
	switch s.EDSHealth {
	case "UNHEALTHY", "DRAINING", "TIMEOUT":
		all = append(all, "/failed_eds_health")
	case "DEGRADED":
		all = append(all, "/degraded_eds_health")
	}
	if len(all) == 0 {
		return "healthy"
	}
	return strings.Join(all, "")
}

func (h *handler) clustersJSON(w http.ResponseWriter) {
	out := &adminv3.Clusters{}
	for _, c := range h.Server.Clusters() {
		cs := &adminv3.ClusterStatus{Name: c.Spec.Name, AddedViaApi: !c.Spec.Bootstrapped, EdsServiceName: c.Spec.EDSName}
		for _, s := range c.Statuses() {
			ip, port, err := net.SplitHostPort(s.Address)
			if err != nil {
				continue // an address that was dialled has a port
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				continue
			}
			cs.HostStatuses = append(cs.HostStatuses, &adminv3.HostStatus{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
				}}},
				HealthStatus: &adminv3.HostHealthStatus{
					FailedActiveHealthCheck: s.FailedCheck, FailedOutlierCheck: s.Ejected,
					EdsHealthStatus: corev3.HealthStatus(corev3.HealthStatus_value[edsHealth(s.EDSHealth)]),
				},
				Weight: s.Weight, Hostname: s.Hostname, Priority: uint32(s.Priority),
				Locality: locality(s.Locality),
			})
		}
		out.ClusterStatuses = append(out.ClusterStatuses, cs)
	}
	writeProto(w, out)
}

// edsHealth shows an unknown health as healthy, as Envoy does.
func edsHealth(s string) string {
	if s == "UNKNOWN" {
		return "HEALTHY"
	}
	return s
}

func locality(name string) *corev3.Locality {
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 {
		return nil
	}
	return &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}
