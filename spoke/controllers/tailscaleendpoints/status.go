package tailscaleendpoints

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// maxEndpoints is how many endpoints a status names.
const maxEndpoints = 256

// judge returns the status that the object should have.
func judge(
	o *v1alpha1.TailscaleEndpoints, v verdict, known map[string]spoke.BackendEndpointStatus, vips map[federation.ServiceID]netip.Addr, egress bool,
) v1alpha1.TailscaleEndpointsStatus {
	next := *o.Status.DeepCopy()
	next.ObservedGeneration = o.Generation
	next.Endpoints, next.TotalEndpoints, next.HealthyEndpoints, next.DiscoveredEndpoints = nil, 0, 0, 0
	usable := 0
	all := make([]v1alpha1.EndpointStatus, 0, len(o.Spec.Endpoints)+len(v.discovered))
	for i := range o.Spec.Endpoints {
		all = append(all, judgeEndpoint(o, &o.Spec.Endpoints[i], v, known, vips))
	}
	for _, e := range v.backend.Endpoints {
		if from, ok := v.discovered[e.Name]; ok {
			all = append(all, judgeDiscovered(e, from, known))
			next.DiscoveredEndpoints++
		}
	}
	for _, e := range all {
		next.TotalEndpoints++
		switch e.Health {
		case v1alpha1.EndpointHealthy:
			next.HealthyEndpoints++
			usable++
		case v1alpha1.EndpointUnknown, v1alpha1.EndpointDisabled:
			usable++
		}
		next.Endpoints = append(next.Endpoints, e)
	}
	if v.discovery != nil && v.discovery.ever && (next.LastSync == nil || !sameDiscovered(o.Status.Endpoints, all)) {
		next.LastSync = &metav1.Time{Time: v.discovery.at.Truncate(time.Second)}
	}
	slices.SortFunc(next.Endpoints, func(a, b v1alpha1.EndpointStatus) int { return strings.Compare(a.Name, b.Name) })
	next.Endpoints = next.Endpoints[:min(len(next.Endpoints), maxEndpoints)]

	conditions := []metav1.Condition{accepted(o, v), proxiesReady(egress)}
	meta.RemoveStatusCondition(&next.Conditions, v1alpha1.ConditionDiscovered)
	if old := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionDiscovered); v.discovery != nil && old != nil {
		next.Conditions = append(next.Conditions, *old) // its transition time
	}
	ready := condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReady, "")
	if usable == 0 {
		ready = condition(v1alpha1.ConditionReady, false, v1alpha1.ReasonNoEndpoints, "no endpoint is healthy: the status of each says why")
		if next.TotalEndpoints == 0 {
			ready.Message = "there is no endpoint"
		}
	}
	for _, c := range slices.Backward(conditions) {
		if c.Status != metav1.ConditionTrue {
			ready = condition(v1alpha1.ConditionReady, false, c.Reason, c.Message)
		}
	}
	if v.discovery != nil { // endpoints go on without it: what is old says so, and is ready all the same
		ok, reason, message := v.discovery.tell(o, v.discovered)
		conditions = append(conditions, condition(v1alpha1.ConditionDiscovered, ok, reason, message))
	}
	for _, c := range append(conditions, ready) {
		c.ObservedGeneration = o.Generation
		meta.SetStatusCondition(&next.Conditions, c)
	}
	return next
}

func condition(kind string, yes bool, reason, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if yes {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

// accepted says whether all that the object asks for can be done, and if not, what was left out.
func accepted(o *v1alpha1.TailscaleEndpoints, v verdict) metav1.Condition {
	var left []string
	for i := range o.Spec.Endpoints {
		if p := v.problems[o.Spec.Endpoints[i].Name]; p != "" {
			left = append(left, fmt.Sprintf("endpoint %s: %s", o.Spec.Endpoints[i].Name, p))
		}
	}
	if o.Spec.Proxy != nil {
		left = append(left, "this version gives no set proxies of its own: its traffic goes through the cluster's")
	}
	switch {
	case v.reason != "":
		return condition(v1alpha1.ConditionAccepted, false, v.reason, v.message)
	case len(left) > 0:
		return condition(v1alpha1.ConditionAccepted, false, v1alpha1.ReasonPartiallyInvalid, strings.Join(left, "; "))
	}
	return condition(v1alpha1.ConditionAccepted, true, v1alpha1.ReasonAccepted, "")
}

func proxiesReady(egress bool) metav1.Condition {
	if egress {
		return condition(v1alpha1.ConditionProxiesReady, true, v1alpha1.ReasonProxiesReady, "")
	}
	return condition(v1alpha1.ConditionProxiesReady, false, v1alpha1.ReasonProxiesNotReady, "no egress proxy is on the tailnet with its configuration applied")
}

func judgeEndpoint(
	o *v1alpha1.TailscaleEndpoints, e *v1alpha1.TailscaleEndpoint, v verdict, known map[string]spoke.BackendEndpointStatus, vips map[federation.ServiceID]netip.Addr,
) v1alpha1.EndpointStatus {
	out := v1alpha1.EndpointStatus{Name: e.Name, Address: e.TailscaleIP, Source: v1alpha1.SourceManual, Health: v1alpha1.EndpointUnknown}
	if p := v.problems[e.Name]; p != "" {
		out.Health, out.Message = v1alpha1.EndpointUnhealthy, p
		return out
	}
	if v.reason != "" {
		out.Message = v.message
		return out
	}
	if l, ok := v.outside[e.Name]; ok {
		if vip, ok := vips[federation.Service(o.Namespace, e.Name)]; ok {
			out.Address = v1alpha1.Address(vip.String())
		}
		out.Health = v1alpha1.EndpointDisabled
		switch {
		case l.err != nil && len(l.addrs) == 0:
			out.Health, out.Message = v1alpha1.EndpointUnhealthy, fmt.Sprintf("look up %s: %s", l.target.Host, lookupError(l.err))
		case l.err != nil:
			out.Message = fmt.Sprintf("the addresses of %s are those found last: %s", l.target.Host, lookupError(l.err))
		}
		return out
	}
	if st, ok := known[e.Name]; ok {
		out.Health, out.Message = v1alpha1.EndpointHealth(st.Health), st.Reason
	}
	return out
}

// sameDiscovered reports whether both have the same discovered endpoints, whatever their health.
func sameDiscovered(a, b []v1alpha1.EndpointStatus) bool {
	places := func(all []v1alpha1.EndpointStatus) map[string]v1alpha1.Address {
		out := map[string]v1alpha1.Address{}
		for _, e := range all {
			if e.Discovered != "" {
				out[e.Name] = e.Address
			}
		}
		return out
	}
	return maps.Equal(places(a), places(b))
}

// judgeDiscovered returns the status of an endpoint that was discovered.
func judgeDiscovered(e spoke.BackendEndpoint, from origin, known map[string]spoke.BackendEndpointStatus) v1alpha1.EndpointStatus {
	out := v1alpha1.EndpointStatus{
		Name: e.Name, Address: v1alpha1.Address(e.Addr.String()), Source: from.source, Discovered: from.name, Port: int32(e.Port),
		Protocol: v1alpha1.TransportProtocol(e.Protocol), Health: v1alpha1.EndpointUnknown,
	}
	if st, ok := known[e.Name]; ok {
		out.Health, out.Message = v1alpha1.EndpointHealth(st.Health), st.Reason
	}
	return out
}

// lookupError says why a name was not found, in words that stay the same from look to look: which server was asked
// changes, and each change would be a write.
func lookupError(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case dns.IsNotFound:
			return "there is no such name"
		case dns.IsTimeout:
			return "the name server does not answer"
		}
		return dns.Err
	}
	return err.Error()
}
