package member

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/clusters"
)

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=memberclusters,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=memberclusters/status,verbs=update

// staleRetry is how long a status that was made from an old object waits for the cache to have the new one.
const staleRetry = 100 * time.Millisecond

// AddTo lets the manager of the hub's own cluster run the registry's reconciler.
func (r *Registry) AddTo(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).
		Named("member").
		For(&v1alpha1.MemberCluster{}).
		WatchesRawSource(source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.queue = q
			return nil
		})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("add the controller of MemberClusters: %w", err)
	}
	return nil
}

// Reconcile brings the watching of a cluster in line with its MemberCluster, and the object's status in line with what
// is known.
func (r *Registry) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	id := federation.ClusterID(req.Name)
	object, err := r.get(ctx, req)
	switch {
	case err != nil:
		return ctrl.Result{}, err
	case object == nil:
		return ctrl.Result{}, r.remove(ctx, id, true)
	case !object.DeletionTimestamp.IsZero():
		return ctrl.Result{}, r.remove(ctx, id, false)
	case !object.Spec.Accepted:
		if err := r.remove(ctx, id, false); err != nil {
			return ctrl.Result{}, err
		}
	}
	l := r.watch(id, object)
	status, next := describe(object, l, r.Now())
	if equality.Semantic.DeepEqual(status, object.Status) {
		return ctrl.Result{RequeueAfter: next}, nil
	}
	object.Status = status
	if err := r.Client.Status().Update(ctx, object); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{RequeueAfter: staleRetry}, nil
		}
		return ctrl.Result{}, fmt.Errorf("write the status: %w", err)
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// get returns the object, nil if there is none. The cache may not have yet what a join has just seen accepted or has
// made, so it is not believed when it says the contrary.
func (r *Registry) get(ctx context.Context, req ctrl.Request) (*v1alpha1.MemberCluster, error) {
	object := &v1alpha1.MemberCluster{}
	err := r.Client.Get(ctx, req.NamespacedName, object)
	if apierrors.IsNotFound(err) || err == nil && !object.Spec.Accepted {
		object = &v1alpha1.MemberCluster{}
		err = r.Reader.Get(ctx, req.NamespacedName, object)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return object, wrap(err, "get the MemberCluster")
}

// watch has the API server of an accepted and joined cluster watched, and returns what is known of it.
func (r *Registry) watch(id federation.ClusterID, object *v1alpha1.MemberCluster) live {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	if l == nil {
		return live{}
	}
	// The pin may be missing in a cache that is older than the join; another node's must not be there.
	if pinned := object.Status.NodeID; object.Spec.Accepted && l.member && (pinned == "" || pinned == l.claim.NodeID) {
		r.Clusters.Engage(clusters.Member{ID: id, Addr: l.claim.Addr, NodeID: l.claim.NodeID})
	}
	return *l
}

// remove takes a cluster out of the federation, once. With forget, nothing is remembered of it.
func (r *Registry) remove(ctx context.Context, id federation.ClusterID, forget bool) error {
	r.Clusters.Disengage(id)
	r.mu.Lock()
	l := r.live[id]
	if l == nil {
		l = &live{}
		r.live[id] = l
	}
	l.member, l.api = false, conditionState{}
	told, leaving := l.removed, l.leaving
	r.mu.Unlock()
	if leaving { // who dismisses it tells the sink, and has it reconciled again
		return nil
	}
	if !told {
		if err := r.Sink.RemoveCluster(ctx, id); err != nil {
			return fmt.Errorf("remove member %s: %w", id, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.removed = true
	if forget && r.live[id] == l && !l.member {
		delete(r.live, id)
	}
	return nil
}

var _ reconcile.Reconciler = (*Registry)(nil)
