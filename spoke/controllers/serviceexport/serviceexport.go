// Package serviceexport says in the status of the ServiceExports of the MCS API (KEP-1645) what came of them: whether the
// Service of their name can be exported (Valid), whether it has its VIP (Ready), and whether other clusters have a Service
// of that name that is another one (Conflict). What is exported, the hub decides, which reads the same objects.
//
// A cluster need not have the CRD. It is looked for now and then, in both of its versions, and the objects are watched
// from when it is there. Another implementation of the MCS API that writes the same conditions in the same cluster would
// contradict this one for ever: a cluster has one.
package serviceexport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// Spoke tells what the hub has said.
type Spoke interface {
	Status(ctx context.Context) (spoke.Status, error)
}

const (
	// recheck is how often the cluster is asked in which version it serves the kind.
	recheck = time.Minute
	// staleRetry is how long a write that was made from an old object, or a list that is not there yet, is waited for.
	staleRetry = 100 * time.Millisecond
)

// versions are those of the API that are understood, the preferred one first.
var versions = []schema.GroupVersion{schema.GroupVersion(mcsv1beta1.GroupVersion), schema.GroupVersion(mcsv1alpha1.GroupVersion)}

// Reconciler brings the status of all ServiceExports in line with what the hub has said.
type Reconciler struct {
	Client client.Client
	Spoke  Spoke
	// Changes brings an event when the hub may have said something else.
	Changes <-chan event.GenericEvent
	// Recheck is how often the cluster is asked whether it serves the kind, a minute by default.
	Recheck time.Duration

	cache     cache.Cache
	discovery discovery.ServerResourcesInterface
	control   controller.Controller

	mu sync.Mutex
	// version is the one that is watched, empty for none; objects is its informer.
	version schema.GroupVersion
	objects cache.Informer
}

// +kubebuilder:rbac:groups=multicluster.x-k8s.io,resources=serviceexports,verbs=get;list;watch
// +kubebuilder:rbac:groups=multicluster.x-k8s.io,resources=serviceexports/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways,verbs=get;list;watch

// everything has all ServiceExports looked at: what the hub says concerns any of them.
var everything = handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
})

// SetupWithManager has the manager call the reconciler, and watch the kind from when it is served.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.Recheck == 0 {
		r.Recheck = recheck
	}
	d, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("ask the cluster for its kinds: %w", err)
	}
	users := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetLabels()[v1alpha1.LabelVIPService] != "true" })
	r.cache, r.discovery = mgr.GetCache(), d
	r.control, err = ctrl.NewControllerManagedBy(mgr).Named("serviceexport").
		Watches(&corev1.Service{}, everything, builder.WithPredicates(users)).
		Watches(&v1alpha1.TailscaleGateway{}, everything, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(r.Changes, everything)).
		Build(r)
	if err != nil {
		return err
	}
	return mgr.Add(manager.RunnableFunc(r.look))
}

// look watches the kind in the version that is served, from when one is, until ctx ends.
func (r *Reconciler) look(ctx context.Context) error {
	ticker := time.NewTicker(r.Recheck)
	defer ticker.Stop()
	for {
		if err := r.follow(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Info("cannot watch the ServiceExports, will retry", "in", r.Recheck.String(), "err", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// follow watches another version, or none, if another is served than before.
func (r *Reconciler) follow(ctx context.Context) error {
	served, err := r.served()
	if err != nil {
		return err
	}
	r.mu.Lock()
	was := r.version
	r.mu.Unlock()
	if served == was {
		return nil
	}
	if was != (schema.GroupVersion{}) {
		if err := r.cache.RemoveInformer(ctx, kind(was)); err != nil {
			return fmt.Errorf("end the watch of %s: %w", was, err)
		}
		r.set(schema.GroupVersion{}, nil)
	}
	if served == (schema.GroupVersion{}) {
		return nil
	}
	o := kind(served)
	informer, err := r.cache.GetInformer(ctx, o, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch %s: %w", served, err)
	}
	r.set(served, informer)
	if err := r.control.Watch(source.Kind[client.Object](r.cache, o, everything, predicate.GenerationChangedPredicate{})); err != nil {
		r.set(schema.GroupVersion{}, nil)
		return fmt.Errorf("watch %s: %w", served, err)
	}
	return nil
}

func (r *Reconciler) set(version schema.GroupVersion, objects cache.Informer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version, r.objects = version, objects
}

// served returns the preferred version of those that the cluster serves, empty for none.
func (r *Reconciler) served() (schema.GroupVersion, error) {
	for _, v := range versions {
		list, err := r.discovery.ServerResourcesForGroupVersion(v.String())
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return schema.GroupVersion{}, fmt.Errorf("ask the cluster for %s: %w", v, err)
		}
		for _, resource := range list.APIResources {
			if resource.Name == mcsv1beta1.ServiceExportPluralName {
				return v, nil
			}
		}
	}
	return schema.GroupVersion{}, nil
}

// kind is an empty ServiceExport of a version. It is not typed: that way one program reads both.
func kind(v schema.GroupVersion) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v.WithKind(mcsv1beta1.ServiceExportKindName))
	return o
}

// watched returns the version that is watched, and whether its objects are known.
func (r *Reconciler) watched() (schema.GroupVersion, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version, r.objects != nil && r.objects.HasSynced()
}

// Reconcile writes the status of each ServiceExport whose conditions are not what they should be. What fails for one does
// not keep it from the rest.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	v, known := r.watched()
	if v == (schema.GroupVersion{}) {
		return ctrl.Result{}, nil
	}
	if !known {
		return ctrl.Result{RequeueAfter: staleRetry}, nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v.WithKind(mcsv1beta1.ServiceExportKindName + "List"))
	if err := r.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list ServiceExports: %w", err)
	}
	if len(list.Items) == 0 {
		return ctrl.Result{}, nil
	}
	w, err := r.world(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	var failed []error
	again := time.Duration(0)
	for i := range list.Items {
		err := r.one(ctx, &list.Items[i], w)
		if apierrors.IsConflict(err) { // the cache was behind
			again, err = staleRetry, nil
		}
		failed = append(failed, err)
	}
	return ctrl.Result{RequeueAfter: again}, errors.Join(failed...)
}

func (r *Reconciler) world(ctx context.Context) (world, error) {
	now, err := r.Spoke.Status(ctx)
	if err != nil {
		return world{}, err
	}
	var gateways v1alpha1.TailscaleGatewayList
	if err := r.Client.List(ctx, &gateways, client.UnsafeDisableDeepCopy); err != nil {
		return world{}, fmt.Errorf("list TailscaleGateways: %w", err)
	}
	joined := false
	for i := range gateways.Items {
		g := &gateways.Items[i]
		joined = joined || g.DeletionTimestamp.IsZero() && len(g.Spec.Tailnets) > 0
	}
	return newWorld(now, joined), nil
}

// one writes the status of a ServiceExport, which is shared and not to be changed.
func (r *Reconciler) one(ctx context.Context, o *unstructured.Unstructured, w world) error {
	if !o.GetDeletionTimestamp().IsZero() {
		return nil
	}
	name := client.ObjectKeyFromObject(o)
	var x mcsv1beta1.ServiceExport
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &x); err != nil {
		return fmt.Errorf("read ServiceExport %s: %w", name, err)
	}
	svc := &corev1.Service{}
	if err := r.Client.Get(ctx, name, svc); err != nil {
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("get Service %s: %w", name, err)
		}
		svc = nil
	}
	conditions := judge(&x, svc, w)
	if equality.Semantic.DeepEqual(conditions, x.Status.Conditions) {
		return nil
	}
	next := o.DeepCopy()
	if err := setConditions(next, conditions); err != nil {
		return fmt.Errorf("write ServiceExport %s: %w", name, err)
	}
	patch := client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, next, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the status of ServiceExport %s: %w", name, err)
	}
	return nil
}

func setConditions(o *unstructured.Unstructured, conditions []metav1.Condition) error {
	list := make([]any, 0, len(conditions))
	for i := range conditions {
		c, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&conditions[i])
		if err != nil {
			return err
		}
		list = append(list, c)
	}
	return unstructured.SetNestedSlice(o.Object, list, "status", "conditions")
}
