package proxyset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// prune deletes what there should not be. What a proxy needs to end well, its Secret and the right to it, stays until
// its pod is gone; the StatefulSet's going, and the pods', bring the next passes.
func (p *pass) prune(ctx context.Context) error {
	var failed []error
	for _, name := range slices.SortedFunc(maps.Keys(p.have), func(a, b id) int { return strings.Compare(a.String(), b.String()) }) {
		o := p.have[name]
		if p.kept[name] || !o.GetDeletionTimestamp().IsZero() || p.inUse(name, o) {
			continue
		}
		if name.kind == kindSecret {
			o = secretNamed(o)
		}
		err := p.Client.Delete(ctx, o, client.Preconditions{UID: new(o.GetUID())}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // another of that name is not this one
			failed = append(failed, fmt.Errorf("delete %s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// secretNamed is a Secret of which only the metadata is known, with the kind that objects of the cache lack.
func secretNamed(o client.Object) client.Object {
	out := secretMetadata()
	out.SetNamespace(o.GetNamespace())
	out.SetName(o.GetName())
	out.SetUID(o.GetUID())
	return out
}

// inUse reports whether pods still need an object that there should not be.
func (p *pass) inUse(name id, o client.Object) bool {
	switch name.kind {
	case kindStatefulSet, kindService, kindBudget:
		return false
	}
	g := groupOf(o)
	if p.kept[id{kindStatefulSet, p.nameOf(g)}] {
		// The set goes on, and this is a Secret of a replica that is scaled away: [pass.set] counts those that are not gone.
		return false
	}
	return p.sets[g] != nil || len(p.pods[g]) > 0
}

// nameOf is the name of the group's StatefulSet, if there is one.
func (p *pass) nameOf(g group) string {
	if sts := p.sets[g]; sts != nil {
		return sts.Name
	}
	return ""
}
