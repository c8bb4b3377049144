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
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
	"github.com/tailgate-project/tailgate/spoke/controllers/vipservice"
)

// maxServices is how many services a status names, maxConsumers how many clusters for each.
const (
	maxServices  = 256
	maxConsumers = 32
)

// facts are what a status is made of.
type facts struct {
	spoke.Status
	extensionPort uint16
	// sets are the StatefulSets of the proxies, where they are pods.
	pods bool
	sets proxyset.Statuses
}

func find(conditions []metav1.Condition, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// judge returns the status that the object should have, and after how long time alone may change it; 0 for never.
func judge(t *v1alpha1.TailscaleGateway, no refusal, now facts) (v1alpha1.TailscaleGatewayStatus, time.Duration) {
	next := *t.Status.DeepCopy()
	next.ObservedGeneration = t.Generation
	tailnets(t, &next, now.Status)
	if no == (refusal{}) {
		no = refusedTailnet(&next)
	}
	again := time.Duration(0)
	conditions := []metav1.Condition{accepted(t, no, now)}
	if no.reason == v1alpha1.ReasonGatewayNotFound || no.reason == v1alpha1.ReasonConflict {
		conditions = append(conditions, condition(v1alpha1.ConditionProgrammed, false, v1alpha1.ReasonPending, "the object is not accepted"))
	} else {
		var c metav1.Condition
		c, again = programmed(t, now.Status)
		conditions = append(conditions, c)
	}
	conditions = append(conditions, proxiesReady(t, now), hubConnected(now.Status))
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
	services(t, &next, now.Status)
	routes(t, &next, now.Status)
	return next, again
}

func condition(kind string, yes bool, reason, message string) metav1.Condition {
	status := metav1.ConditionFalse
	if yes {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

func accepted(t *v1alpha1.TailscaleGateway, no refusal, now facts) metav1.Condition {
	if no != (refusal{}) {
		return condition(v1alpha1.ConditionAccepted, false, no.reason, no.message)
	}
	if passed := passedOver(t.Spec.ExtensionServer, now.extensionPort); len(passed) > 0 {
		return condition(v1alpha1.ConditionAccepted, true, v1alpha1.ReasonPartiallyInvalid, strings.Join(passed, "; "))
	}
	return condition(v1alpha1.ConditionAccepted, true, v1alpha1.ReasonAccepted, "")
}

// passedOver says which settings of the extension server do not count: there is one for the whole cluster.
func passedOver(c *v1alpha1.ExtensionServerConfig, port uint16) []string {
	if c == nil {
		return nil
	}
	var out []string
	if c.Port != 0 && c.Port != int32(port) {
		out = append(out, fmt.Sprintf("spec.extensionServer.port %d does not count: the extension server listens on %d, as `spoke run --extension-addr` says", c.Port, port))
	}
	if c.TLS != nil {
		out = append(out, "spec.extensionServer.tls does not count: the spoke makes and keeps the extension server's certificate")
	}
	return out
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
			if slices.ContainsFunc(s.Endpoints, func(e federation.Endpoint) bool {
				return e.Cluster != now.Cluster && (e.TailnetRef == config.TailscaleTailnetRef.Name || e.TailnetRef == "")
			}) {
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

// proxiesReady says whether somebody carries traffic. Where the proxies are pods, those ready are on the tailnet with their
// configuration applied; only what one could not apply of it has to be added.
func proxiesReady(t *v1alpha1.TailscaleGateway, now facts) metav1.Condition {
	if !now.pods {
		return proxiesHeard(now.Status)
	}
	out := now.sets.Condition(t)
	if out.Status != metav1.ConditionTrue {
		return out
	}
	if c := proxiesHeard(now.Status); c.Reason == v1alpha1.ReasonProxyRefusedConfig {
		return c
	}
	return out
}

func proxiesHeard(now spoke.Status) metav1.Condition {
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
	case spoke.ReasonNotAccepted, spoke.ReasonClusterIDTaken, spoke.ReasonJoinKeyRefused:
		reason = now.Link.Reason
	}
	return condition(v1alpha1.ConditionHubConnected, false, reason, fmt.Sprintf("stale since %s: %s",
		now.Link.Since.UTC().Format(time.RFC3339), now.Link.Message))
}

// services fills in the VIPs that are here or can be reached, own ones first.
func services(t *v1alpha1.TailscaleGateway, next *v1alpha1.TailscaleGatewayStatus, now spoke.Status) {
	consumers := make([]v1alpha1.ClusterName, 0, len(now.Consumers))
	for _, c := range now.Consumers[:min(len(now.Consumers), maxConsumers)] {
		consumers = append(consumers, v1alpha1.ClusterName(c))
	}
	ids := map[string]bool{}
	var own, others []v1alpha1.ServiceStatus
	for _, v := range slices.Concat(now.VIPs, now.FederatedVIPs) {
		ids[v.Owner.Service.String()] = true
		s := v1alpha1.ServiceStatus{Name: v.Name, TailscaleService: "svc:" + v.ServiceName, OwnerCluster: v1alpha1.ClusterName(v.Owner.Cluster), ConsumerClusters: consumers}
		for _, a := range v.Addrs {
			s.VIPAddresses = append(s.VIPAddresses, v1alpha1.Address(a.String()))
		}
		own = append(own, s)
	}
	for _, set := range now.Sets {
		ids[set.Service] = true
		id, err := federation.ParseServiceID(set.Service)
		if err != nil {
			continue // the link refuses others
		}
		for _, e := range set.Endpoints {
			if e.Cluster == now.Cluster || !e.Addr.IsValid() {
				continue
			}
			v := spoke.VIPService{Cluster: e.Cluster, Service: id}
			for _, p := range e.Ports {
				v.Ports = append(v.Ports, spoke.VIPPort{Port: p})
			}
			others = append(others, v1alpha1.ServiceStatus{
				Name: vipservice.Name(v, t.Namespace), OwnerCluster: v1alpha1.ClusterName(e.Cluster),
				VIPAddresses: []v1alpha1.Address{v1alpha1.Address(e.Addr.String())}, ConsumerClusters: consumers,
			})
		}
	}
	next.Services = append(sorted(own), slices.DeleteFunc(sorted(others), func(s v1alpha1.ServiceStatus) bool {
		return slices.ContainsFunc(own, func(o v1alpha1.ServiceStatus) bool { return o.Name == s.Name })
	})...)
	next.Services = next.Services[:min(len(next.Services), maxServices)]
	next.ServiceCount = int32(len(ids))
}

// sorted returns the services by name, each name once.
func sorted(all []v1alpha1.ServiceStatus) []v1alpha1.ServiceStatus {
	slices.SortStableFunc(all, func(a, b v1alpha1.ServiceStatus) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b v1alpha1.ServiceStatus) bool { return a.Name == b.Name })
}

// routes fills in what Envoy Gateway got when it last asked.
func routes(t *v1alpha1.TailscaleGateway, next *v1alpha1.TailscaleGatewayStatus, now spoke.Status) {
	next.GeneratedRoutes = nil
	for _, p := range now.Policies {
		if p.TailscaleGateway != (spoke.Name{Namespace: t.Namespace, Name: t.Name}) || p.Seen == 0 {
			continue
		}
		next.GeneratedRoutes = &v1alpha1.GeneratedRoutesStatus{
			Ingress: int32(p.Routes.Ingress), Egress: int32(p.Routes.Egress), CrossCluster: int32(p.Routes.CrossCluster), Revision: p.Seen,
			LastHookCall: &metav1.Time{Time: p.SeenAt.Truncate(time.Second)},
		}
	}
}
