// Package proxyset has Kubernetes run the proxies of a member cluster: for each tailnet that a TailscaleGateway names, a
// StatefulSet of ingress proxies and one of egress proxies, with what they need.
//
// All proxies of a tailnet and role serve the whole cluster, so the TailscaleGateways that name a tailnet share them; what
// the oldest of them says of its proxies counts. The objects are in the spoke's own namespace. As an owner reference
// cannot lead to another namespace, the reconciler finds by their labels those that nobody wants any more, also after a
// time in which no spoke ran. An object of somebody else that has the name of one of them is left alone.
//
// What a replica is in its tailnet is in a Secret of its own, which the reconciler makes empty and only the replica reads
// and writes. It outlives the pod, and goes when the replica is scaled away, after its pod.
//
// Fields are written by server-side apply and never by force: where somebody else has changed one, that stays and is
// reported. The number of replicas is the one field that another may own without harm. What scales the StatefulSet, be it
// a HorizontalPodAutoscaler or kubectl scale, has the last word from then on, and Secrets follow the StatefulSet's number;
// to give it back to the TailscaleGateway, delete the StatefulSet with --cascade=orphan, and it is made anew around the
// pods that run.
package proxyset

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// Reasons of the Events that TailscaleGateways get.
const (
	// ReasonCreated says that proxies were made.
	ReasonCreated = "ProxiesCreated"
	// ReasonScaled says that somebody else has scaled the proxies, and the TailscaleGateway's number does not count.
	ReasonScaled = "ProxiesScaledByOther"
	// ReasonConflict says that an object or a field of somebody else is in the way.
	ReasonConflict = "ProxyConflict"
	// ReasonRefused says that the API server refuses an object of the proxies.
	ReasonRefused = "ProxyRefused"
	// ReasonIgnored says that the proxy of a TailscaleGateway does not count, because an older one says something else.
	ReasonIgnored = "ProxyIgnored"
)

const (
	// staleRetry is how long a write waits for the cache to have what it has not yet.
	staleRetry = 100 * time.Millisecond
	// wayRetry is the time between two looks at an object of somebody else that is in the way: its going is no event.
	wayRetry = 30 * time.Second
)

// Reconciler brings all objects of proxies in line with the TailscaleGateways.
type Reconciler struct {
	// Client reads from a cache that was made with [CacheOptions].
	Client client.Client
	// Live reads from the API server: what is in the way of an object is not in the cache.
	Live    client.Reader
	Options Options
	// Changed is called when [Reconciler.Statuses] may return something else than before; nil calls nobody. It must not
	// block.
	Changed func()
	// Record tells users of a TailscaleGateway what they would want to know; nil tells nobody. kind is Normal or Warning.
	Record func(o client.Object, kind, reason, message string)

	statuses atomic.Pointer[Statuses]
	// refused are the writes that the API server has refused and that would be refused again, told the Events that were
	// recorded. Only one call of Reconcile runs at a time.
	refused map[id]refusal
	told    map[event]bool
}

// The rights on Secrets are those that the proxies are given, each on its own: nobody can give what he has not. With list
// and watch only metadata is read, never what is in a Secret.
//
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=secrets,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=serviceaccounts;services,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=apps,namespace=tailgate-system,resources=statefulsets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=policy,namespace=tailgate-system,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,namespace=tailgate-system,resources=roles;rolebindings,verbs=get;list;watch;create;patch;delete

// all stands for all sets: what one is depends on all TailscaleGateways.
var all = reconcile.Request{NamespacedName: types.NamespacedName{Name: "all"}}

// secretMetadata is a Secret without what is in it.
func secretMetadata() *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: typeMeta("v1", kindSecret)}
}

// CacheOptions restricts the manager's cache to the objects of proxies: the spoke may read no others of these kinds. The
// cache of Services stays that of the whole cluster.
func CacheOptions(namespace string) map[client.Object]cache.ByObject {
	own := cache.ByObject{
		Namespaces: map[string]cache.Config{namespace: {}}, Label: labels.SelectorFromSet(common()),
	}
	sets := own
	// Whose field spec.replicas is stands in the managed fields.
	sets.Transform = func(o any) (any, error) { return o, nil }
	return map[client.Object]cache.ByObject{
		&appsv1.StatefulSet{}: sets, &corev1.Pod{}: own, &corev1.Secret{}: own, &corev1.ServiceAccount{}: own,
		&rbacv1.Role{}: own, &rbacv1.RoleBinding{}: own, &policyv1.PodDisruptionBudget{}: own,
	}
}

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	everything := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} })
	own := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetNamespace() == r.Options.Namespace && mine(o.GetLabels())
	}))
	b := ctrl.NewControllerManagedBy(mgr).Named("proxyset").
		Watches(&v1alpha1.TailscaleGateway{}, everything, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesMetadata(secretMetadata(), everything, own)
	for _, o := range []client.Object{
		&appsv1.StatefulSet{}, &corev1.Pod{}, &corev1.Service{}, &corev1.ServiceAccount{}, &rbacv1.Role{}, &rbacv1.RoleBinding{}, &policyv1.PodDisruptionBudget{},
	} {
		b = b.Watches(o, everything, own)
	}
	return b.Complete(r)
}

// Statuses returns how the sets are. The result must not be changed; it is empty before the first call of Reconcile.
func (r *Reconciler) Statuses() Statuses {
	if s := r.statuses.Load(); s != nil {
		return *s
	}
	return nil
}

// Reconcile makes the objects that there should be, mends them, deletes what is too much, and looks how the proxies are.
// What fails for one set does not keep it from the others.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var gateways v1alpha1.TailscaleGatewayList
	if err := r.Client.List(ctx, &gateways); err != nil {
		return ctrl.Result{}, fmt.Errorf("list TailscaleGateways: %w", err)
	}
	p := pass{Reconciler: r, kept: map[id]bool{}, refusals: map[id]refusal{}, says: map[event]*v1alpha1.TailscaleGateway{}}
	if err := p.read(ctx); err != nil {
		return ctrl.Result{}, err
	}
	var failed []error
	again := time.Duration(0)
	statuses := Statuses{}
	for _, w := range wishes(gateways.Items) {
		for _, role := range w.roles() {
			s := p.set(w, role)
			err := p.ensure(ctx, s, w)
			if errors.Is(err, errBehind) {
				again, err = staleRetry, nil
			}
			statuses[s.Key] = p.judge(s, w, err)
			p.tell(w, s, err)
			refused, ok := errors.AsType[refusal](err)
			switch {
			case !ok:
				failed = append(failed, err)
			case refused.attempt == "" && again == 0:
				again = wayRetry
			} // else to try again would not help before something changes, which is an event
		}
	}
	failed = append(failed, p.prune(ctx))
	p.record()
	r.refused = p.refusals
	if old := r.statuses.Swap(&statuses); (old == nil || !reflect.DeepEqual(*old, statuses)) && r.Changed != nil {
		r.Changed()
	}
	return ctrl.Result{RequeueAfter: again}, errors.Join(failed...)
}
