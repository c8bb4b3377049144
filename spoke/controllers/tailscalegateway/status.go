package tailscalegateway

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// maxServices is how many services a status names.
const maxServices = 256

func find(conditions []metav1.Condition, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// judge returns the status that the object should have, and after how long time alone may change it; 0 for never.
func judge(t *v1alpha1.TailscaleGateway, no refusal, now spoke.Status) (v1alpha1.TailscaleGatewayStatus, time.Duration) {
	next := *t.Status.DeepCopy()
	next.ObservedGeneration = t.Generation
	tailnets(t, &next, now)
	if no == (refusal{}) {
		no = refusedTailnet(&next)
	}
	again := time.Duration(0)
	conditions := []metav1.Condition{accepted(no)}
	if no.reason == v1alpha1.ReasonGatewayNotFound || no.reason == v1alpha1.ReasonConflict {
		conditions = append(conditions, condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonPending, "the object is not accepted"))
	} else {
		var c metav1.Condition
		c, again = programmed(t, now)
		conditions = append(conditions, c)
	}
	conditions = append(conditions, proxiesReady(now), hubConnected(now))
	ready := condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReady, "")
	for _, c := range slices.Backward(conditions) {
		// Traffic goes on without the hub: what is stale says so, and is ready all the same.
		if c.Status != metav1.ConditionTrue && c.Type != v1alpha1.ConditionHubConnected {
			ready = condition(v1alpha1.ConditionReady, false, c.Reason, c.Message)
		}
	}
	for _, c := range append(conditions, ready) {
		c.ObservedGeneration = t.Generation
		meta.SetStatusCondition(&next.Conditions, c)
	}
	services(&next, now)
	return next, again
}

func condition(kind string, yes bool, reason, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if yes {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

func accepted(no refusal) metav1.Condition {
	if no != (refusal{}) {
		return condition(v1alpha1.ConditionAccepted, false, no.reason, no.message)
	}
	return condition(v1alpha1.ConditionAccepted, true, v1alpha1.ReasonAccepted, "")
}

// tailnets fills in the state of each tailnet, with what the hub refuses of it.
func tailnets(t *v1alpha1.TailscaleGateway, next *v1alpha1.TailscaleGatewayStatus, now spoke.Status) {
	old := next.Tailnets
	next.Tailnets = nil
	for _, config := range t.Spec.Tailnets {
		ts := v1alpha1.TailnetStatus{Name: config.Name}
		if i := slices.IndexFunc(old, func(o v1alpha1.TailnetStatus) bool { return o.Name == config.Name }); i >= 0 {
			ts.Conditions = old[i].Conditions
		}
		c := condition(v1alpha1.ConditionAccepted, true, v1alpha1.ReasonAccepted, "")
		for _, n := range now.Notices {
			if n.Subject == "tailnet/"+config.Name || n.Subject == "tailnet/"+config.TailscaleTailnetRef.Name {
				c = condition(v1alpha1.ConditionAccepted, false, n.Reason, n.Message)
			}
		}
		c.ObservedGeneration = t.Generation
		meta.SetStatusCondition(&ts.Conditions, c)
		for _, v := range now.VIPs {
			if v.Tailnet == config.Name {
				ts.DiscoveredServices++
			}
		}
		for _, s := range now.Sets {
			if slices.ContainsFunc(s.Endpoints, func(e federation.Endpoint) bool { return e.Cluster != now.Cluster }) {
				ts.RemoteServices++
			}
		}
		next.Tailnets = append(next.Tailnets, ts)
	}
}

func refusedTailnet(next *v1alpha1.TailscaleGatewayStatus) refusal {
	for _, ts := range next.Tailnets {
		if c := find(ts.Conditions, v1alpha1.ConditionAccepted); c.Status == metav1.ConditionFalse {
			return refusal{c.Reason, fmt.Sprintf("tailnet %q: %s", ts.Name, c.Message)}
		}
	}
	return refusal{}
}

// programmed says whether Envoy Gateway has asked for the newest structure.
func programmed(t *v1alpha1.TailscaleGateway, now spoke.Status) (metav1.Condition, time.Duration) {
	i := slices.IndexFunc(now.Policies, func(p spoke.Policy) bool {
		return p.TailscaleGateway == spoke.Name{Namespace: t.Namespace, Name: t.Name}
	})
	if i < 0 || now.Policies[i].Revision == 0 {
		return condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonPending, "the policy object is not written yet"), 0
	}
	p := now.Policies[i]
	switch wait := p.ChangedAt.Add(callPatience).Sub(now.Now); {
	case p.Seen >= p.Revision:
		for _, h := range slices.Backward(now.Hooks) {
			if h.Policy == p.TailscaleGateway.String() {
				if len(h.Left) > 0 {
					return condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonPartiallyInvalid,
						fmt.Sprintf("%d left out, the first: %s", len(h.Left), h.Left[0])), 0
				}
				break
			}
		}
		return condition(v1alpha1.ConditionProgrammed, true, v1alpha1.ReasonProgrammed, ""), 0
	case wait > 0:
		return condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonPending, "Envoy Gateway has not asked for the newest structure yet"), wait
	}
	return condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonExtensionNotCalled, fmt.Sprintf(
		"Envoy Gateway has not called the extension server since %s: see that it runs and that its extensionManager is what `spoke bootstrap` prints",
		p.ChangedAt.UTC().Format(time.RFC3339))), 0
}

func proxiesReady(now spoke.Status) metav1.Condition {
	var missing []string
	if !now.IngressReady {
		missing = append(missing, "ingress")
	}
	if !now.EgressReady {
		missing = append(missing, "egress")
	}
	problem := now.IngressProblem
	if problem == "" {
		problem = now.EgressProblem
	}
	switch {
	case len(missing) > 0:
		return condition(v1alpha1.ConditionProxiesReady, false, v1alpha1.ReasonProxiesNotReady,
			"no "+strings.Join(missing, " and no ")+" proxy is on the tailnet with its configuration applied")
	case problem != "":
		return condition(v1alpha1.ConditionProxiesReady, false, v1alpha1.ReasonProxyRefusedConfig, problem)
	}
	return condition(v1alpha1.ConditionProxiesReady, true, v1alpha1.ReasonProxiesReady, "")
}

// hubConnected says whether the state is fresh. Its message must not change while nothing does.
func hubConnected(now spoke.Status) metav1.Condition {
	if now.Link.Up {
		return condition(v1alpha1.ConditionHubConnected, true, v1alpha1.ReasonConnected, "")
	}
	reason := v1alpha1.ReasonHubUnreachable
	switch now.Link.Reason {
	case spoke.ReasonNotAccepted, spoke.ReasonClusterIDTaken:
		reason = now.Link.Reason
	}
	return condition(v1alpha1.ConditionHubConnected, false, reason, fmt.Sprintf("stale since %s: %s",
		now.Link.Since.UTC().Format(time.RFC3339), now.Link.Message))
}

// services fills in the services that have a VIP here or can be reached.
func services(next *v1alpha1.TailscaleGatewayStatus, now spoke.Status) {
	ids := map[string]bool{}
	next.Services = nil
	for _, v := range slices.Concat(now.VIPs, now.FederatedVIPs) {
		ids[v.Owner.Service.String()] = true
		s := v1alpha1.ServiceStatus{Name: v.Name, TailscaleService: "svc:" + v.ServiceName, OwnerCluster: v1alpha1.ClusterName(v.Owner.Cluster)}
		for _, a := range v.Addrs {
			s.VIPAddresses = append(s.VIPAddresses, v1alpha1.Address(a.String()))
		}
		next.Services = append(next.Services, s)
	}
	slices.SortFunc(next.Services, func(a, b v1alpha1.ServiceStatus) int { return strings.Compare(a.Name, b.Name) })
	next.Services = slices.CompactFunc(next.Services, func(a, b v1alpha1.ServiceStatus) bool { return a.Name == b.Name })
	next.Services = next.Services[:min(len(next.Services), maxServices)]
	for _, s := range now.Sets {
		ids[s.Service] = true
	}
	next.ServiceCount = int32(len(ids))
}
