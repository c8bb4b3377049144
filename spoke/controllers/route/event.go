package route

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/spoke"
)

// The reasons of the Events on routes of connections and datagrams, whose condition ResolvedRefs is wrong: Envoy Gateway does
// not look for TailscaleEndpoints in them.
const (
	// ReasonServed says that traffic goes to the TailscaleEndpoints, whatever the condition says.
	ReasonServed = "TailscaleEndpointsServed"
	// ReasonRefNotPermitted says which ReferenceGrant is missing.
	ReasonRefNotPermitted = "RefNotPermitted"
)

// Event is what a user is told of a route.
type Event struct {
	// Type is Normal or Warning.
	Type            string
	Reason, Message string
}

// routeKey names a route.
type routeKey struct{ kind, namespace, name string }

// tell records Events on the routes of connections and datagrams whose rules are others than before.
func (r *Reconciler) tell(ctx context.Context, before, now []spoke.Rule) {
	if r.Record == nil {
		return
	}
	old := byRoute(before)
	for key, rules := range byRoute(now) {
		if slices.EqualFunc(old[key], rules, spoke.Rule.Equal) {
			continue
		}
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == key.kind })
		o := kinds[i].object.DeepCopyObject().(client.Object)
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: key.namespace, Name: key.name}, o)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			logr.FromContextOrDiscard(ctx).Error(err, "an Event on a route was not recorded", "kind", key.kind, "namespace", key.namespace, "name", key.name)
			continue
		}
		for _, e := range eventsOf(key, rules) {
			r.Record(o, e)
		}
	}
}

// byRoute returns the rules of each route of connections or datagrams.
func byRoute(rules []spoke.Rule) map[routeKey][]spoke.Rule {
	out := map[routeKey][]spoke.Rule{}
	for _, x := range rules {
		if x.Kind != KindHTTPRoute && x.Kind != KindGRPCRoute {
			key := routeKey{x.Kind, x.Namespace, x.Name}
			out[key] = append(out[key], x)
		}
	}
	return out
}

func eventsOf(key routeKey, rules []spoke.Rule) []Event {
	var served, denied []string
	for _, rule := range rules {
		for _, b := range rule.Backends {
			name := b.Namespace + "/" + b.Name
			switch {
			case !b.Custom:
			case b.Denied && !slices.Contains(denied, name):
				denied = append(denied, name)
			case !b.Denied && !slices.Contains(served, name):
				served = append(served, name)
			}
		}
	}
	var out []Event
	if len(denied) > 0 {
		out = append(out, Event{corev1.EventTypeWarning, ReasonRefNotPermitted, fmt.Sprintf(
			"TailscaleEndpoints %s: their share of the traffic is refused. They are in another namespace, and no ReferenceGrant there allows a %s of namespace %s to refer to them; add one",
			strings.Join(denied, ", "), key.kind, key.namespace)})
	}
	if len(served) > 0 {
		out = append(out, Event{corev1.EventTypeNormal, ReasonServed, fmt.Sprintf(
			"TailscaleEndpoints %s are served where they have the port. Envoy Gateway does not look for them in a %s and may say ResolvedRefs=False of them; "+
				"where that condition must be True, let an HTTPRoute refer to them as well, or refer to the Service of the VIP instead",
			strings.Join(served, ", "), key.kind)})
	}
	return out
}
