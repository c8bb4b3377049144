package tailscaleendpoints

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// The defaults of a health check, for objects that were made before the CRD had them.
const (
	defaultInterval  = 10 * time.Second
	defaultTimeout   = 3 * time.Second
	defaultHealthy   = 2
	defaultUnhealthy = 3
)

// target is where an endpoint outside of the tailnet is.
type target struct {
	// Endpoint is its name in the object, under which the cluster exports it.
	Endpoint string
	// Host is a name or an address.
	Host string
	// Port is that of the endpoint, TargetPort the one outside.
	Port, TargetPort uint16
	Protocol         federation.Protocol
	App              federation.AppProtocol
}

// plan returns what an object asks for: the backend of routes, the endpoints of it that are outside of the tailnet, and
// what is wrong with any endpoint, which is then left out, by its name.
func plan(o *v1alpha1.TailscaleEndpoints) (spoke.Backend, []target, map[string]string) {
	out := spoke.Backend{Name: spoke.Name{Namespace: o.Namespace, Name: o.Name}, Tailnet: o.Spec.Tailnet}
	var targets []target
	problems := map[string]string{}
	for i := range o.Spec.Endpoints {
		e := &o.Spec.Endpoints[i]
		next, outside, err := planEndpoint(o.Namespace, e)
		if err != nil {
			problems[e.Name] = err.Error()
			continue
		}
		out.Endpoints = append(out.Endpoints, next)
		if outside != nil {
			targets = append(targets, *outside)
		}
	}
	slices.SortFunc(out.Endpoints, func(a, b spoke.BackendEndpoint) int { return strings.Compare(a.Name, b.Name) })
	return out, targets, problems
}

func planEndpoint(namespace string, e *v1alpha1.TailscaleEndpoint) (spoke.BackendEndpoint, *target, error) {
	out := spoke.BackendEndpoint{
		Name: e.Name, Port: uint16(e.Port), TargetPort: uint16(e.Port), Protocol: federation.TCP, App: appProtocol(e.Protocol), Weight: 1,
	}
	if e.Protocol == v1alpha1.EndpointUDP {
		out.Protocol = federation.UDP
	}
	if e.Weight != nil {
		out.Weight = uint32(*e.Weight)
	}
	switch {
	case e.ExternalTarget != "":
		host, port, err := splitTarget(e.ExternalTarget)
		if err != nil {
			return out, nil, err
		}
		out.Service = federation.Service(namespace, e.Name)
		return out, &target{Endpoint: e.Name, Host: host, Port: out.Port, TargetPort: port, Protocol: out.Protocol, App: out.App}, nil
	case e.TailscaleIP != "":
		addr, err := netip.ParseAddr(string(e.TailscaleIP))
		if err != nil {
			return out, nil, fmt.Errorf("tailscaleIP: %w", err)
		}
		out.Addr = addr.Unmap()
	default:
		out.Host = strings.TrimSuffix(e.TailscaleFQDN, ".")
	}
	out.Check = planCheck(e)
	return out, nil, nil
}

// splitTarget reads host:port.
func splitTarget(text string) (host string, port uint16, err error) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, fmt.Errorf("externalTarget %q: want host:port, such as api.example.com:443", text)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || host == "" {
		return "", 0, fmt.Errorf("externalTarget %q: want a host and a port from 1 to 65535", text)
	}
	return host, uint16(n), nil
}

// appProtocol is what is spoken at an endpoint; HTTP where it does not say.
func appProtocol(p v1alpha1.EndpointProtocol) federation.AppProtocol {
	return federation.ParseAppProtocol(string(cmp.Or(p, v1alpha1.EndpointHTTP)))
}

// planCheck returns how the endpoint is checked: by connecting where it does not say, not at all where it says so.
func planCheck(e *v1alpha1.TailscaleEndpoint) *spoke.HealthCheck {
	h := e.HealthCheck
	if h == nil {
		h = &v1alpha1.EndpointHealthCheck{}
	}
	if h.Enabled != nil && !*h.Enabled {
		return nil
	}
	return &spoke.HealthCheck{
		Check:    spoke.Check{Kind: checkKind(e.Protocol, h.Path), Path: h.Path, Host: h.Host, Service: h.Service, Expected: statuses(h.ExpectedStatuses)},
		Interval: duration(h.Interval, defaultInterval), Timeout: duration(h.Timeout, defaultTimeout),
		Healthy: number(h.HealthyThreshold, defaultHealthy), Unhealthy: number(h.UnhealthyThreshold, defaultUnhealthy),
	}
}

func checkKind(p v1alpha1.EndpointProtocol, path string) spoke.CheckKind {
	switch {
	case p == v1alpha1.EndpointGRPC:
		return spoke.CheckGRPC
	case p == v1alpha1.EndpointGRPCS:
		return spoke.CheckGRPCS
	case p == v1alpha1.EndpointTLS, p == v1alpha1.EndpointHTTPS && path == "":
		return spoke.CheckTLS
	case p == v1alpha1.EndpointHTTPS:
		return spoke.CheckHTTPS
	case path != "":
		return spoke.CheckHTTP
	}
	return spoke.CheckConnect
}

// statuses reads ranges whose form the CRD guarantees.
func statuses(in []v1alpha1.StatusRange) []spoke.StatusRange {
	var out []spoke.StatusRange
	for _, r := range in {
		low, high, found := strings.Cut(string(r), "-")
		if !found {
			high = low
		}
		l, err1 := strconv.ParseUint(low, 10, 16)
		h, err2 := strconv.ParseUint(high, 10, 16)
		if err1 == nil && err2 == nil {
			out = append(out, spoke.StatusRange{Low: uint16(l), High: uint16(h)})
		}
	}
	return out
}

func duration(d *metav1.Duration, or time.Duration) time.Duration {
	if d == nil {
		return or
	}
	return d.Duration
}

func number(n *int32, or int) int {
	if n == nil {
		return or
	}
	return int(*n)
}

// external returns the service that an endpoint outside of the tailnet is exported as.
func external(namespace string, t target, addrs []netip.Addr) spoke.Service {
	p := spoke.ServicePort{Port: federation.Port{Port: t.Port, Protocol: t.Protocol, App: t.App}}
	for _, a := range addrs {
		p.Ready = append(p.Ready, netip.AddrPortFrom(a.Unmap(), t.TargetPort))
	}
	slices.SortFunc(p.Ready, netip.AddrPort.Compare)
	p.Ready = slices.Compact(p.Ready)
	return spoke.Service{Name: spoke.Name{Namespace: namespace, Name: t.Endpoint}, Ports: []spoke.ServicePort{p}}
}
