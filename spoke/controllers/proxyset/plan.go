package proxyset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// wish is what TailscaleGateways want of a tailnet's proxies.
type wish struct {
	tailnet string
	// wanting are the TailscaleGateways that name the tailnet, the oldest first.
	wanting []*v1alpha1.TailscaleGateway
	// config is what counts. It is the zero value where nobody says anything.
	config v1alpha1.ProxyConfig
	// ignored are those that say something else, and what to tell them.
	ignored map[types.NamespacedName]string
}

// roles are those of the proxies that there should be.
func (w wish) roles() []spoke.Role {
	switch w.config.ConnectionType {
	case v1alpha1.ConnectionIngress:
		return []spoke.Role{spoke.Ingress}
	case v1alpha1.ConnectionEgress:
		return []spoke.Role{spoke.Egress}
	}
	return []spoke.Role{spoke.Ingress, spoke.Egress}
}

// wishes returns what there should be, by tailnet. TailscaleGateways that are not accepted count too: that a Gateway is
// replaced is no reason to end all connections.
func wishes(all []v1alpha1.TailscaleGateway) []wish {
	byAge := make([]*v1alpha1.TailscaleGateway, 0, len(all))
	for i := range all {
		if all[i].DeletionTimestamp.IsZero() {
			byAge = append(byAge, &all[i])
		}
	}
	slices.SortFunc(byAge, func(a, b *v1alpha1.TailscaleGateway) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	out := map[string]wish{}
	from := map[string]string{}
	for _, t := range byAge {
		for i := range t.Spec.Tailnets {
			add(out, from, t, &t.Spec.Tailnets[i])
		}
	}
	return slices.SortedFunc(maps.Values(out), func(a, b wish) int { return cmp.Compare(a.tailnet, b.tailnet) })
}

// add adds what one TailscaleGateway says of one tailnet. from says whose proxy counts.
func add(all map[string]wish, from map[string]string, t *v1alpha1.TailscaleGateway, c *v1alpha1.TailnetConfig) {
	tailnet := c.TailscaleTailnetRef.Name
	w, ok := all[tailnet]
	if !ok {
		w = wish{tailnet: tailnet, ignored: map[types.NamespacedName]string{}}
	}
	if !slices.Contains(w.wanting, t) {
		w.wanting = append(w.wanting, t)
	}
	where := fmt.Sprintf("spec.tailnets[%s].proxy of TailscaleGateway %s", c.Name, client.ObjectKeyFromObject(t))
	switch {
	case c.Proxy == nil:
	case from[tailnet] == "":
		from[tailnet], w.config = where, *c.Proxy
	case !equality.Semantic.DeepEqual(w.config, *c.Proxy):
		w.ignored[client.ObjectKeyFromObject(t)] = fmt.Sprintf(
			"spec.tailnets[%s].proxy does not count: the proxies of TailscaleTailnet %s are shared, and %s comes first; make both say the same, or leave one out",
			c.Name, tailnet, from[tailnet])
	}
	all[tailnet] = w
}
