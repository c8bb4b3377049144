package proxyset

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// event is something that a user of a TailscaleGateway would want to know.
type event struct {
	to                    types.NamespacedName
	kind, reason, message string
}

// tell has the users of a set's TailscaleGateways told of what is in its way.
func (p *pass) tell(w wish, s Set, failed error) {
	if refused, ok := errors.AsType[refusal](failed); ok {
		reason := ReasonRefused
		if refused.reason == v1alpha1.ReasonConflict {
			reason = ReasonConflict
		}
		p.say(w.wanting, corev1.EventTypeWarning, reason, refused.message)
	}
	if s.Scaler != "" {
		p.say(w.wanting, corev1.EventTypeNormal, ReasonScaled, scaled(s, *p.sets[s.group()].Spec.Replicas))
	}
	for _, t := range w.wanting {
		if message := w.ignored[client.ObjectKeyFromObject(t)]; message != "" {
			p.say([]*v1alpha1.TailscaleGateway{t}, corev1.EventTypeWarning, ReasonIgnored, message)
		}
	}
}

func (p *pass) say(to []*v1alpha1.TailscaleGateway, kind, reason, message string) {
	for _, t := range to {
		p.says[event{to: client.ObjectKeyFromObject(t), kind: kind, reason: reason, message: message}] = t
	}
}

// record records what the pass before did not say.
func (p *pass) record() {
	said := p.told
	p.told = map[event]bool{}
	order := slices.SortedFunc(maps.Keys(p.says), func(a, b event) int {
		return cmp.Or(cmp.Compare(a.to.String(), b.to.String()), cmp.Compare(a.reason, b.reason), cmp.Compare(a.message, b.message))
	})
	for _, e := range order {
		p.told[e] = true
		if !said[e] && p.Record != nil {
			p.Record(p.says[e], e.kind, e.reason, e.message)
		}
	}
}
