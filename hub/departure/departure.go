// Package departure takes out of a member cluster what Tailgate has made there, when the cluster leaves the federation. What
// people made themselves stays, but for the TailscaleGateways: those are what made it a member's.
package departure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

const (
	// spokeSet is the StatefulSet of the chart tailgate-spoke.
	spokeSet = "tailgate-spoke"
	// lookAgain is between two looks whether something is gone.
	lookAgain = 250 * time.Millisecond
)

// secrets are those that the spoke and `tailgate join` make under names of their own.
var secrets = []string{
	"tailgate-extension-ca-key", "tailgate-extension-ca", "tailgate-extension-server", "tailgate-extension-client", "tailgate-proxy-tls", "tailgate-spoke-join-key",
}

// ErrStillThere reports objects that were deleted and did not go within the time.
var ErrStillThere = errors.New("still there")

// Options say what to clean.
type Options struct {
	// Namespace is the spoke's.
	Namespace string
	// Timeout is how long objects may take to go.
	Timeout time.Duration
}

// Report says what was found.
type Report struct {
	// Deleted counts what was deleted, by kind.
	Deleted map[string]int
	// Kept are TailscaleEndpoints that somebody wrote, as namespace/name.
	Kept []string
}

// NewClient returns a client that knows the kinds that a departure is about.
func NewClient(config *rest.Config) (client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make the scheme: %w", err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connect to the member's API server: %w", err)
	}
	return c, nil
}

// Clean deletes the TailscaleGateways, stops the spoke, so that nothing is made again, and deletes what it has made and no
// owner takes along. It does not matter whether the spoke is there, or does anything; kinds that are not served are passed over.
// What does not go keeps nothing else from going: it is an error in the end. Said again, it deletes what is left.
func Clean(ctx context.Context, c client.Client, o Options) (Report, error) {
	clean := cleaner{Client: c, Report: Report{Deleted: map[string]int{}}}
	made := []client.ListOption{client.InNamespace(o.Namespace), client.MatchingLabels{"app.kubernetes.io/managed-by": "tailgate-spoke"}}
	vips := []client.ListOption{client.MatchingLabels{v1alpha1.LabelVIPService: "true"}}
	patience, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := clean.delete(ctx, selection{list: &v1alpha1.TailscaleGatewayList{}}); err != nil {
		return clean.Report, err
	}
	if err := clean.stop(ctx, patience, o.Namespace); err != nil {
		return clean.Report, err
	}
	for _, s := range []selection{
		{&appsv1.StatefulSetList{}, made}, {&policyv1.PodDisruptionBudgetList{}, made}, {&corev1.ServiceList{}, made}, {&rbacv1.RoleBindingList{}, made},
		{&rbacv1.RoleList{}, made}, {&corev1.ServiceAccountList{}, made}, {&corev1.SecretList{}, made},
		{&corev1.ServiceList{}, vips}, {&discoveryv1.EndpointSliceList{}, vips}, {list: &v1alpha1.TailscaleRoutePolicyList{}},
	} {
		if err := clean.delete(ctx, s); err != nil {
			return clean.Report, err
		}
	}
	for _, name := range secrets {
		if err := clean.one(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name}}); err != nil {
			return clean.Report, err
		}
	}
	if err := clean.endpoints(ctx); err != nil {
		return clean.Report, err
	}
	var errs []error
	for _, s := range clean.deleted {
		errs = append(errs, clean.gone(ctx, patience, s))
	}
	return clean.Report, errors.Join(errs...)
}

// selection is what a list selects.
type selection struct {
	list client.ObjectList
	by   []client.ListOption
}

// cleaner cleans a cluster.
type cleaner struct {
	client.Client
	Report

	// deleted are the selections of which there was something to delete.
	deleted []selection
}

// stop scales the spoke to nothing, and waits until its pod is gone.
func (c *cleaner) stop(ctx, patience context.Context, namespace string) error {
	set := &appsv1.StatefulSet{}
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: spokeSet}, set)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the spoke: %w", err)
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`))
	if err := c.Patch(ctx, set, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("stop the spoke: %w", err)
	}
	pods := []client.ListOption{client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/name": spokeSet}}
	if err := c.gone(ctx, patience, selection{&corev1.PodList{}, pods}); err != nil {
		return fmt.Errorf("stop the spoke, which makes again what is deleted: %w", err)
	}
	return nil
}

// delete deletes what is selected.
func (c *cleaner) delete(ctx context.Context, s selection) error {
	objects, err := c.listed(ctx, s)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := c.one(ctx, o); err != nil {
			return err
		}
	}
	if len(objects) > 0 {
		c.deleted = append(c.deleted, s)
	}
	return nil
}

// one deletes an object, where it is there.
func (c *cleaner) one(ctx context.Context, o client.Object) error {
	kinds, _, err := c.Scheme().ObjectKinds(o)
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", o.GetNamespace(), o.GetName(), err)
	}
	err = c.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err == nil {
		c.Deleted[kinds[0].Kind]++
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the %s %s/%s: %w", kinds[0].Kind, o.GetNamespace(), o.GetName(), err)
	}
	return nil
}

// endpoints deletes the TailscaleEndpoints that a TailscaleGateway had, and notes the others.
func (c *cleaner) endpoints(ctx context.Context) error {
	objects, err := c.listed(ctx, selection{list: &v1alpha1.TailscaleEndpointsList{}})
	if err != nil {
		return err
	}
	for _, o := range objects {
		owner := metav1.GetControllerOf(o)
		if owner == nil || owner.Kind != v1alpha1.KindTailscaleGateway {
			c.Kept = append(c.Kept, o.GetNamespace()+"/"+o.GetName())
			continue
		}
		if err := c.one(ctx, o); err != nil {
			return err
		}
	}
	slices.Sort(c.Kept)
	return nil
}

// listed returns what is selected, nothing where the kind is not served.
func (c *cleaner) listed(ctx context.Context, s selection) ([]client.Object, error) {
	if err := c.List(ctx, s.list, s.by...); meta.IsNoMatchError(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list %T: %w", s.list, err)
	}
	var out []client.Object
	err := meta.EachListItem(s.list, func(o runtime.Object) error {
		out = append(out, o.(client.Object))
		return nil
	})
	return out, err
}

// gone waits until nothing is selected any more, or patience ends.
func (c *cleaner) gone(ctx, patience context.Context, s selection) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		objects, err := c.listed(ctx, s)
		if err != nil || len(objects) == 0 {
			return err
		}
		select {
		case <-ticker.C:
		case <-patience.Done():
			return fmt.Errorf("%w: %s", ErrStillThere, named(c.Scheme(), objects))
		}
	}
}

// named says which objects these are, and what holds them.
func named(scheme *runtime.Scheme, objects []client.Object) string {
	var names []string
	for _, o := range objects {
		name := o.GetNamespace() + "/" + o.GetName()
		if kinds, _, err := scheme.ObjectKinds(o); err == nil {
			name = kinds[0].Kind + " " + name
		}
		if f := o.GetFinalizers(); len(f) > 0 {
			name += " (finalizers " + strings.Join(f, ", ") + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
