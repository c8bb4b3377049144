package verify

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/envoygateway"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// member judges what is seen of a member from its own side.
func (j *judge) member(m *Member) {
	a := at{j, m.name(), m.Context}
	if m.Err != nil {
		a.failed(HopAPIServer, m.Err.Error(), "see that the context "+m.Context+" of the kubeconfig leads to the member, and that it may be used now")
		return
	}
	a.ok(HopAPIServer, "version %s, seen as %s", m.Version, m.Context)
	a.clock(m.Context, m.spokeClock())
	if len(m.MissingKinds) > 0 {
		a.failed(HopKinds, "the API server does not serve "+strings.Join(m.MissingKinds, ", "),
			"install Envoy Gateway with its CRDs, then the chart tailgate-spoke, which brings its own")
	} else {
		a.ok(HopKinds, "those of the Gateway API and of Tailgate are served")
	}
	gateway := a.envoyGateway(m)
	if !a.spoke(m) {
		a.skipped(HopProxies, "its spoke does not work", HopGateway, HopRequests)
		return
	}
	a.proxies(m.Spoke.Status)
	if !a.gateways(m) || !gateway {
		a.skipped(HopRequests, "its gateway does not work")
		return
	}
	a.requests(m)
}

// name is the cluster's id where it is known.
func (m *Member) name() string {
	if s := m.Spoke.Status; s != nil && s.Cluster != "" && s.Link.Reason != v1alpha1.ReasonClusterIDTaken {
		return string(s.Cluster)
	}
	return m.Context
}

// envoyGateway reports whether there is one that can work.
func (a at) envoyGateway(m *Member) bool {
	install := "install " + envoygateway.Tested + ": helm install eg oci://docker.io/envoyproxy/gateway-helm --version " + envoygateway.Tested +
		" -n " + envoygateway.Namespace + " --create-namespace -f deploy/install/envoy-gateway-values.yaml"
	e := m.EnvoyGateway
	switch {
	case e.Err != nil:
		a.skipped(HopEnvoyGateway, e.Err.Error(), HopSettings)
		return true
	case !e.Found:
		a.failed(HopEnvoyGateway, "there is no Envoy Gateway in the cluster (no Deployment has the label control-plane=envoy-gateway)", install)
		return false
	case e.Version == "":
		a.warning(HopEnvoyGateway, "its Deployment in "+e.Namespace+" does not say which version it is; Tailgate is tested with "+envoygateway.Tested, "look by hand: envoy-gateway version")
	case !envoygateway.Supported(e.Version):
		a.failed(HopEnvoyGateway, fmt.Sprintf("it is %s, in %s, and Tailgate is tested with %s: hooks of another minor release may lack or break routes",
			e.Version, e.Namespace, envoygateway.Tested), install+" (helm upgrade, where it is installed)")
		return false
	case e.Ready == 0:
		a.failed(HopEnvoyGateway, fmt.Sprintf("none of its %d pods in %s is ready", e.Replicas, e.Namespace), "kubectl --namespace "+e.Namespace+" describe pods --selector control-plane=envoy-gateway")
		return false
	default:
		a.ok(HopEnvoyGateway, "%s, %d of %d pods ready", e.Version, e.Ready, e.Replicas)
	}
	want := "tailgate-spoke." + m.Spoke.Namespace + ".svc"
	settings := "helm upgrade eg oci://docker.io/envoyproxy/gateway-helm --version " + envoygateway.Tested + " -n " + e.Namespace + " --reuse-values -f deploy/install/envoy-gateway-values.yaml"
	switch {
	case e.HooksErr != nil:
		a.skipped(HopSettings, e.HooksErr.Error())
	case e.Hooks == "":
		a.failed(HopSettings, "it has no extensionManager, so it never asks the spoke, and no route of Tailgate is made", settings)
		return false
	case e.Hooks != want && !strings.HasPrefix(e.Hooks, want+"."):
		a.failed(HopSettings, "its extensionManager asks "+e.Hooks+", and the spoke is "+want, settings)
		return false
	case e.AgesErr != nil:
		a.skipped(HopSettings, "its hooks go to "+e.Hooks+", but whether it started after the cluster had the kind TailscaleEndpoints is not known: "+e.AgesErr.Error())
	case !e.Started.IsZero() && e.Started.Before(e.KindMade):
		// It looks for the kinds of backends once, when it starts, and passes over those that are not there.
		a.failed(HopSettings, "it started before the cluster had the kind TailscaleEndpoints, and takes no such object for a backend until it starts again",
			"kubectl --context "+m.Context+" --namespace "+e.Namespace+" rollout restart deployment/envoy-gateway")
	default:
		a.ok(HopSettings, "its hooks go to %s", e.Hooks)
	}
	return true
}

// spoke reports whether there is one that tells of itself.
func (a at) spoke(m *Member) bool {
	s := m.Spoke
	where := "kubectl --context " + m.Context + " --namespace " + s.Namespace
	switch {
	case s.Err != nil:
		a.failed(HopSpoke, s.Err.Error(), "use an account that may list pods and create pods/portforward in "+s.Namespace)
		return false
	case s.Pod == "":
		a.failed(HopSpoke, "there is no spoke in the namespace "+s.Namespace,
			"tailgate join --cluster NAME --values NAME.yaml | "+where+" apply -f -, then install the chart tailgate-spoke with -f NAME.yaml")
		return false
	case s.Ended != "" && !s.Ready:
		a.failed(HopSpoke, "it ended with: "+lastLine(s.Ended), where+" logs "+s.Pod+" --previous")
		return false
	case s.Waiting != "":
		a.failed(HopSpoke, "its pod "+s.Pod+" waits: "+s.Waiting, where+" describe pod "+s.Pod)
		return false
	case s.Status == nil:
		a.failed(HopSpoke, "it does not answer: "+sentence(fmt.Sprint(s.StatusErr)), where+" logs "+s.Pod)
		return false
	}
	// A spoke with a problem goes on without that part. Whether requests feel it, the hops behind it say.
	if problems := s.Status.Problems; len(problems) > 0 {
		part := slices.Sorted(maps.Keys(problems))[0]
		a.warning(HopSpoke, part+": "+problems[part], where+" logs "+s.Pod)
	} else {
		a.ok(HopSpoke, "pod %s answers", s.Pod)
	}
	a.link(m)
	return true
}

// link judges the link as its spoke sees it, which knows best why there is none.
func (a at) link(m *Member) {
	link := m.Spoke.Status.Link
	if link.Up {
		a.ok(HopLink, "its spoke hears the hub")
		return
	}
	cluster := string(m.Spoke.Status.Cluster)
	again := "kubectl --context " + m.Context + " apply -f -"
	fix := "see the message; requests go on by what the hub said last"
	switch link.Reason {
	case v1alpha1.ReasonJoinKeyRefused:
		fix = "make another key, which the spoke takes within a minute or two: tailgate join --cluster " + cluster + " | " + again
	case v1alpha1.ReasonClusterIDTaken:
		fix = "give this cluster an id of its own: tailgate join --cluster ANOTHER --values ANOTHER.yaml | " + again +
			", then helm upgrade tailgate-spoke with -f ANOTHER.yaml; or, if the other one is gone for good: tailgate leave --cluster " + cluster
	case v1alpha1.ReasonNotAccepted:
		fix = "in the management cluster: kubectl patch membercluster " + cluster + " --type=merge -p '{\"spec\":{\"accepted\":true}}'"
	case v1alpha1.ReasonHubUnreachable:
		fix = fmt.Sprintf("the chart's hub.address is %q: it has to be the hub's name in the tailnet and the port of its link (tailgate join --values writes the right one); "+
			"else the hub does not run, or the policy file does not let %s reach it", cmp.Or(m.Spoke.Hub, "not known"), "tag:tailgate-spoke")
	}
	a.failed(HopLink, link.Reason+": "+sentence(link.Message), fix)
}

func (a at) proxies(s *SpokeStatus) {
	switch {
	case s.IngressReady && s.EgressReady:
		a.ok(HopProxies, "ingress and egress are ready")
	case !s.IngressReady:
		a.failed(HopProxies, "ingress: "+sentence(s.IngressProblem), "kubectl get pods --namespace tailgate-system --selector gateway.tailscale.com/proxy-role=ingress; a TailscaleGateway makes them")
	default:
		a.failed(HopProxies, "egress: "+sentence(s.EgressProblem), "kubectl get pods --namespace tailgate-system --selector gateway.tailscale.com/proxy-role=egress; a TailscaleGateway makes them")
	}
}

// gateways reports whether there is one that works.
func (a at) gateways(m *Member) bool {
	switch {
	case m.GatewaysErr != nil:
		a.skipped(HopGateway, m.GatewaysErr.Error())
		return true
	case len(m.Gateways) == 0:
		a.warning(HopGateway, "there is no TailscaleGateway, so nothing is exported and no route is made", "apply one: deploy/examples/quickstart/member.yaml")
		return false
	}
	works := false
	for _, g := range m.Gateways {
		hop := HopGateway + " " + g.Namespace + "/" + g.Name
		ready := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case ready == nil:
			a.failed(hop, "the spoke has not looked at it yet", "see that the spoke is ready")
		case ready.Status == metav1.ConditionTrue:
			a.ok(hop, "Ready")
			works = true
		case ready.Reason == v1alpha1.ReasonExtensionNotCalled:
			a.failed(hop, ready.Reason+": "+sentence(ready.Message), "Envoy Gateway has to be configured with deploy/install/envoy-gateway-values.yaml, and restarted since")
		default:
			a.failed(hop, ready.Reason+": "+sentence(ready.Message), "kubectl --context "+m.Context+" --namespace "+g.Namespace+" describe tailscalegateway "+g.Name)
			works = works || ready.Reason == v1alpha1.ReasonHubUnreachable // it serves what it knows
		}
	}
	return works
}

// requests judges the answers to what was sent through a member's gateways.
func (a at) requests(m *Member) {
	if m.Unasked != nil {
		a.skipped(HopRequests, m.Unasked.Error())
		return
	}
	if len(m.Requests) == 0 {
		a.skipped(HopRequests, "no service that speaks HTTP is exported anywhere")
		return
	}
	var bad []string
	worst := OK
	for _, r := range m.Requests {
		if v, words := r.judged(); v != OK {
			bad = append(bad, r.Path+": "+words)
			if rank(v) > rank(worst) {
				worst = v
			}
		}
	}
	if worst == OK {
		a.ok(HopRequests, "%d of %d answered, such as %s through %s", len(m.Requests), len(m.Requests), m.Requests[0].Path, m.Requests[0].Gateway)
		return
	}
	a.add(HopRequests, worst, fmt.Sprintf("%d of %d not as they should be; %s", len(bad), len(m.Requests), strings.Join(bad, "; ")),
		"tailgate explain SERVICE says where requests go and why; the log of the Envoy says what came of one")
}

// judged is what an answer says. That of a service may be any; but these are Envoy's where it cannot reach one.
func (r Request) judged() (Verdict, string) {
	said := fmt.Sprintf("%d %s", r.Status, http.StatusText(r.Status))
	switch {
	case r.Err != nil:
		return Failed, r.Err.Error()
	case r.NoRoute:
		return Failed, said + ", as for any path without a route"
	case r.Status == http.StatusBadGateway, r.Status == http.StatusServiceUnavailable, r.Status == http.StatusGatewayTimeout:
		return Failed, strings.TrimSpace(said + " " + firstLine(r.body))
	case r.Status >= http.StatusInternalServerError:
		return Warning, said + " " + firstLine(r.body)
	}
	return OK, ""
}

// firstLine is the beginning of an answer, for people.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.ToValidUTF8(line[:min(len(line), 120)], "")
}

// lastLine is the end of a log.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
