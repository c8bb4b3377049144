package verify

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
)

// hub judges the hub, and the members as it sees them.
func (j *judge) hub() {
	a := at{j, whereHub, whereHub}
	switch {
	case j.Hub.Err != nil:
		a.failed(HopHub, j.Hub.Err.Error(), "see that the hub's pod runs: kubectl --namespace tailgate-system get pods; its members go on with what they were told last")
	case j.Hub.Status.Rebuilding:
		a.warning(HopHub, "the hub has lost its store and learns what there is; it tells its members nothing until it knows",
			"wait; if it takes minutes, the members or tailnets below that cannot be read are why")
	default:
		a.ok(HopHub, "version %s, epoch %d, %d members", j.Hub.Status.Version, j.Hub.Status.Epoch, len(j.Hub.Status.Clusters))
	}
	a.clock(whereHub, thisMachine, "the management cluster's API server")
	a.tailnets()
	if j.Hub.Err != nil {
		return
	}
	if len(j.Hub.Status.Clusters) == 0 && (j.Hub.Objects == nil || len(j.Hub.Objects.Members) == 0) {
		a.warning(HopMember, "no cluster has joined", "let one in: tailgate join --help")
	}
	a.waiting()
	for _, c := range j.Hub.Status.Clusters {
		at{j, string(c.ID), whereHub}.seenByHub(c)
	}
}

func (a at) tailnets() {
	o := a.Hub.Objects
	switch {
	case o == nil:
		a.skipped(HopTailnet, "only the hub is seen, by --hub, and not its cluster")
		return
	case o.Err != nil:
		a.failed(HopTailnet, o.Err.Error(), "name the management cluster with --kubeconfig and --context, and use an account that may read tailscaletailnets and memberclusters")
		return
	case len(o.Tailnets) == 0:
		a.failed(HopTailnet, "there is no TailscaleTailnet, so no VIP can be made", "apply one, with the Secret of an OAuth client: see \"Install the hub\" of deploy/README.md")
		return
	}
	for _, t := range o.Tailnets {
		hop := HopTailnet + " " + t.Name
		ready := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case ready == nil:
			a.warning(hop, "the hub has not looked at it yet", "if this stays, see that the hub leads: kubectl get leases --namespace tailgate-system")
		case ready.Status != metav1.ConditionTrue:
			a.failed(hop, ready.Reason+": "+sentence(ready.Message), "kubectl describe tailscaletailnet "+t.Name)
		default:
			a.ok(hop, "%s", "the hub manages it")
		}
	}
}

// waiting are the members that the hub does not count as such yet, and those that two clusters want to be.
func (a at) waiting() {
	if a.Hub.Objects == nil {
		return
	}
	for _, m := range a.Hub.Objects.Members {
		a := at{a.judge, m.Name, whereHub}
		if rival := meta.FindStatusCondition(m.Status.Conditions, member.ConditionIdentityConflict); rival != nil && rival.Status == metav1.ConditionTrue {
			a.failed(HopMember, "two spokes want to be this member: "+rival.Message,
				"give each cluster an id of its own: the value cluster.id of the chart tailgate-spoke, and a new key by: tailgate join --cluster ANOTHER")
			continue
		}
		if !m.Spec.Accepted {
			a.failed(HopMember, "it asks to join, and nobody has let it in", "kubectl patch membercluster "+m.Name+" --type=merge -p '{\"spec\":{\"accepted\":true}}', if you know it")
			continue
		}
		if !slices.ContainsFunc(a.Hub.Status.Clusters, func(c operator.Cluster) bool { return string(c.ID) == m.Name }) {
			a.failed(HopMember, "it was let in, and its spoke has not joined", "verify it from its own side: tailgate verify --member CONTEXT")
		}
	}
}

// seenByHub judges what the hub sees of a member.
func (a at) seenByHub(c operator.Cluster) {
	since := func(s operator.Signal) string {
		if s.Since.IsZero() {
			return "never since this hub began"
		}
		return "not for " + a.Hub.Status.Now.Sub(s.Since).Round(1e9).String()
	}
	switch {
	case !c.Link.Up:
		a.failed(HopLink, fmt.Sprintf("the hub hears its spoke: %s (%s)", since(c.Link), sentence(c.Link.Reason)), "verify it from its own side: tailgate verify --member CONTEXT")
	case c.Applied != c.Newest:
		a.warning(HopLink, fmt.Sprintf("its spoke has applied version %d.%d of %d.%d", c.Applied.Epoch, c.Applied.Version, c.Newest.Epoch, c.Newest.Version), "look again; if it stays, see the spoke's log")
	default:
		a.ok(HopLink, "up, with all that the hub has for it")
	}
	if !c.API.Up {
		a.failed(HopAPIServer, fmt.Sprintf("the hub reaches it: %s (%s)", since(c.API), sentence(c.API.Reason)),
			"the hub comes by the spoke's node in the tailnet, port 6443: let the policy file's grants have it, and see that ServiceAccount tailgate-spoke-api may read")
	} else {
		a.ok(HopAPIServer, "the hub reads it through the tailnet")
	}
	a.probes(c.ID)
}

// probes judges who reaches a member's ingress.
func (a at) probes(id federation.ClusterID) {
	var reached, failing []string
	for _, p := range a.Hub.Status.Probes {
		switch {
		case p.Target != id:
		case p.Reachable:
			reached = append(reached, string(p.Observer))
		default:
			failing = append(failing, fmt.Sprintf("%s (%s)", p.Observer, sentence(p.Error)))
		}
	}
	switch {
	case len(failing) > 0:
		a.failed(HopProbes, "it is not reached by "+strings.Join(failing, ", "),
			"its ingress proxies and the others' egress proxies are nodes of the tailnet: let the policy file's grants have them reach one another")
	case len(reached) > 0:
		a.ok(HopProbes, "reached by %s", strings.Join(reached, ", "))
	case len(a.Hub.Status.Clusters) > 1:
		a.warning(HopProbes, "nobody probes it: it has no ingress proxy that serves, or nobody else has joined", "make a TailscaleGateway there")
	}
}
