// Package member decides which clusters are members, and keeps their MemberCluster objects in the hub's cluster.
//
// A cluster id belongs to the tailnet node that first joined under it once an administrator had accepted it. That pin
// is stored in the object before the join succeeds, by optimistic concurrency, so of two nodes that race for an id one
// is refused. Everything else that the status says is written by the reconciler from what the registry was told.
package member

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/clusters"
)

var (
	// ErrClusterIDTaken reports a cluster id that belongs to another tailnet node.
	ErrClusterIDTaken = errors.New("cluster id is taken")
	// ErrNotAccepted reports a cluster that no administrator has accepted.
	ErrNotAccepted = errors.New("cluster is not accepted")
	// ErrInvalidClaim reports a claim that lacks what a member needs.
	ErrInvalidClaim = errors.New("invalid claim")
)

// Claim is a spoke's wish to be a member. What stands in it about the node is what the tailnet says, never what the
// spoke says.
type Claim struct {
	Cluster federation.ClusterID
	// NodeID is the stable id of the spoke's node, NodeName its name for messages, Tags its tags.
	NodeID, NodeName string
	Tags             []string
	// Addr is where the spoke serves its API server on the tailnet.
	Addr     netip.AddrPort
	Versions v1alpha1.MemberVersions
	// Locality is what the spoke says. The spec of the MemberCluster overrides it.
	Locality federation.Locality
}

// Member is an accepted member.
type Member struct {
	ID       federation.ClusterID
	NodeID   string
	Addr     netip.AddrPort
	Locality federation.Locality
}

// Progress is what a member has applied and offers. It is written to the status with the next LastSeen.
type Progress struct {
	Epoch, Version uint64
	Exports        int
}

// Clusters watches the API servers of members.
type Clusters interface {
	Engage(m clusters.Member)
	Disengage(id federation.ClusterID)
}

// Sink is told which clusters are no members any more.
type Sink interface {
	RemoveCluster(ctx context.Context, id federation.ClusterID) error
}

// Options are what a registry needs. All but the last two are required.
type Options struct {
	// Client reads through the cache of the hub's cluster, Reader around it.
	Client   client.Client
	Reader   client.Reader
	Clusters Clusters
	Sink     Sink
	// Now is the clock.
	Now func() time.Time
	// AcceptAll accepts each cluster that joins for the first time. Who may join is then decided by the join keys alone.
	AcceptAll bool
	// AcceptTags does so for those whose node has one of these tags.
	AcceptTags []string
}

// Registry admits members. It is made by [New] and reconciles once it is given to a manager.
type Registry struct {
	Options

	mu    sync.Mutex
	live  map[federation.ClusterID]*live
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// live is what the registry knows of a cluster besides its object. It begins empty with each start of the hub.
type live struct {
	// claim is the last one of the node that holds the id or, while the cluster is not accepted, of whoever asked.
	claim *Claim
	// member says that the claim was admitted and still is.
	member bool
	// removed says that the sink knows that the cluster is no member.
	removed bool

	linked     bool
	linkReason string
	// lost is when the link was lost, zero if it was not since the hub's start.
	lost time.Time

	api conditionState

	progress Progress
	// devices are those that the spoke named last.
	devices []v1alpha1.MemberDevice
	// leaving is set while somebody else takes the cluster out of the federation.
	leaving bool

	// rival is the last claim of another node, refused at rivalAt. It is nil once that node is a member by another id.
	rival   *Claim
	rivalAt time.Time
}

// conditionState is what the last report about an API server said.
type conditionState struct {
	known, up bool
	reason    string
}

// New returns a registry.
func New(o Options) *Registry {
	return &Registry{Options: o, live: map[federation.ClusterID]*live{}}
}

// Join admits a claim, or refuses it with an error that wraps [ErrClusterIDTaken], [ErrNotAccepted], [ErrInvalidClaim]
// or federation.ErrInvalidClusterID and says what to do. The first claim of a cluster makes its MemberCluster. The same
// claim again gives the same answer.
func (r *Registry) Join(ctx context.Context, c Claim) (Member, error) {
	if err := c.validate(); err != nil {
		return Member{}, err
	}
	if r.leaving(c.Cluster) {
		return Member{}, fmt.Errorf("%w: %s is leaving the federation", ErrNotAccepted, c.Cluster)
	}
	var object *v1alpha1.MemberCluster
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		object, err = r.getOrCreate(ctx, c)
		if err != nil {
			return err
		}
		if holder := object.Status.NodeID; holder != "" && holder != c.NodeID {
			return fmt.Errorf("%w: %s belongs to tailnet node %s, and %s (%s) asks for it: give this cluster another id, "+
				"or, if it takes the other's place, delete the other device from the tailnet and run: kubectl delete membercluster %s",
				ErrClusterIDTaken, c.Cluster, holder, c.NodeName, c.NodeID, c.Cluster)
		}
		if !object.Spec.Accepted {
			return fmt.Errorf("%w: %s waits for an administrator of the hub's cluster, who runs: %s", ErrNotAccepted, c.Cluster, acceptCommand(c.Cluster))
		}
		if object.Status.NodeID != "" {
			return nil
		}
		return r.pin(ctx, object, c)
	})
	r.note(c, err)
	if err != nil {
		return Member{}, err
	}
	return Member{ID: c.Cluster, NodeID: c.NodeID, Addr: c.Addr, Locality: locality(object, c)}, nil
}

// Invite makes the accepted MemberCluster of a cluster that is to join. One that is there already and accepted, and that no
// node holds, is left as it is; another is an error that wraps [ErrClusterIDTaken] or [ErrNotAccepted] and says what to do.
func (r *Registry) Invite(ctx context.Context, id federation.ClusterID) error {
	if err := id.Validate(); err != nil {
		return err
	}
	object := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: string(id)}, Spec: v1alpha1.MemberClusterSpec{Accepted: true}}
	err := r.Client.Create(ctx, object)
	if !apierrors.IsAlreadyExists(err) {
		return wrap(err, "create the MemberCluster %s", id)
	}
	object = &v1alpha1.MemberCluster{}
	if err := r.Reader.Get(ctx, types.NamespacedName{Name: string(id)}, object); err != nil {
		return wrap(err, "get the MemberCluster %s", id)
	}
	switch {
	case object.Status.NodeID != "":
		return fmt.Errorf("%w: %s has joined already, as tailnet node %s: give the new cluster another id, or, if it takes the other's "+
			"place, delete that device from the tailnet and run: kubectl delete membercluster %s", ErrClusterIDTaken, id, object.Status.NodeID, id)
	case !object.Spec.Accepted:
		return fmt.Errorf("%w: %s has asked already and waits; run: %s", ErrNotAccepted, id, acceptCommand(id))
	}
	return nil
}

func (c Claim) validate() error {
	if err := c.Cluster.Validate(); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if c.NodeID == "" || !c.Addr.IsValid() || c.Addr.Port() == 0 {
		return fmt.Errorf("join %s: %w: it needs a tailnet node and the address and port of the API proxy", c.Cluster, ErrInvalidClaim)
	}
	return nil
}

// getOrCreate reads around the cache, which may not have yet what the claim before this one made.
func (r *Registry) getOrCreate(ctx context.Context, c Claim) (*v1alpha1.MemberCluster, error) {
	object := &v1alpha1.MemberCluster{}
	key := types.NamespacedName{Name: string(c.Cluster)}
	err := r.Reader.Get(ctx, key, object)
	if !apierrors.IsNotFound(err) {
		return object, wrap(err, "get the MemberCluster %s", c.Cluster)
	}
	object = &v1alpha1.MemberCluster{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       v1alpha1.MemberClusterSpec{Accepted: r.AcceptAll || slices.ContainsFunc(c.Tags, r.accepts)},
	}
	err = r.Client.Create(ctx, object)
	if apierrors.IsAlreadyExists(err) {
		object = &v1alpha1.MemberCluster{}
		err = r.Reader.Get(ctx, key, object)
	}
	return object, wrap(err, "create the MemberCluster %s", c.Cluster)
}

func (r *Registry) accepts(tag string) bool { return slices.Contains(r.AcceptTags, tag) }

// pin gives the cluster id to the claim's node.
func (r *Registry) pin(ctx context.Context, object *v1alpha1.MemberCluster, c Claim) error {
	now := metav1.NewTime(r.Now())
	object.Status.NodeID = c.NodeID
	object.Status.FirstJoined = &now
	err := r.Client.Status().Update(ctx, object)
	if apierrors.IsConflict(err) {
		return err // as it is, to be tried again
	}
	return wrap(err, "give the cluster id %s to node %s", c.Cluster, c.NodeID)
}

// note remembers how a claim went, for the status.
func (r *Registry) note(c Claim, err error) {
	if err == nil {
		r.endRivalry(c.NodeID)
	}
	r.edit(c.Cluster, func(l *live) {
		switch {
		case err == nil:
			l.claim, l.member, l.removed = &c, true, false
		case errors.Is(err, ErrClusterIDTaken):
			l.rival, l.rivalAt = &c, r.Now()
		case errors.Is(err, ErrNotAccepted):
			l.claim, l.member = &c, false
		}
	})
}

// endRivalry forgets the ids that a node asked for in vain, which it does no more now that it has one.
func (r *Registry) endRivalry(nodeID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, l := range r.live {
		if l.rival != nil && l.rival.NodeID == nodeID {
			l.rival = nil
			r.reconcileLocked(id)
		}
	}
}

// Owns reports whether a node is the accepted member of that id since the hub's start.
func (r *Registry) Owns(id federation.ClusterID, nodeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	return l != nil && l.member && l.claim.NodeID == nodeID
}

// SetConnected says that a member's link is there, or that it was lost and why.
func (r *Registry) SetConnected(_ context.Context, id federation.ClusterID, connected bool, reason string) {
	r.edit(id, func(l *live) {
		if l.linked && !connected {
			l.lost = r.Now()
		}
		l.linked, l.linkReason = connected, reason
	})
}

// APIState says whether a member's API server answers and its objects are read. It has the form that package clusters
// reports in, and never fails.
func (r *Registry) APIState(_ context.Context, id federation.ClusterID, up bool, reason string) error {
	r.edit(id, func(l *live) { l.api = conditionState{known: true, up: up, reason: reason} })
	return nil
}

// SetProgress says what a member has applied and offers. It is written with the next LastSeen.
func (r *Registry) SetProgress(id federation.ClusterID, p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.live[id]; l != nil {
		l.progress = p
	}
}

// maxDevices is how many devices a status can have.
const maxDevices = 256

// SetDevices says which tailnet nodes a member's proxies are. Those that were named before stay in the status: a proxy that is
// away for a minute still has its device.
func (r *Registry) SetDevices(id federation.ClusterID, devices []v1alpha1.MemberDevice) {
	r.edit(id, func(l *live) { l.devices = devices })
}

// Dismiss takes a cluster out of the federation for good: its MemberCluster is accepted no longer, so that its spoke is refused
// from now on, by a hub that is started meanwhile too, and farewell does the rest, with the object, nil if there is none. Nobody
// else tells the sink meanwhile. Once farewell is done the object is deleted; until then it keeps what the next one has to know.
func (r *Registry) Dismiss(ctx context.Context, id federation.ClusterID, farewell func(context.Context, *v1alpha1.MemberCluster) (done bool, err error)) error {
	r.edit(id, func(l *live) { l.leaving = true })
	defer r.edit(id, func(l *live) { l.leaving = false })
	object, err := r.refuse(ctx, id)
	if err != nil {
		return err
	}
	r.Clusters.Disengage(id)
	r.edit(id, func(l *live) {
		if object != nil { // what the spoke said last may not be written yet
			object.Status.Devices = union(object.Status.Devices, l.devices)
		}
		l.member, l.api = false, conditionState{}
	})
	done, err := farewell(ctx, object)
	if err != nil {
		return err
	}
	r.edit(id, func(l *live) { l.removed = true })
	if !done || object == nil {
		return nil
	}
	err = r.Client.Delete(ctx, object, client.Preconditions{UID: &object.UID})
	return wrap(client.IgnoreNotFound(err), "delete the MemberCluster %s", id)
}

// refuse takes the acceptance back, and returns the object, nil if there is none.
func (r *Registry) refuse(ctx context.Context, id federation.ClusterID) (*v1alpha1.MemberCluster, error) {
	object := &v1alpha1.MemberCluster{}
	err := r.Reader.Get(ctx, types.NamespacedName{Name: string(id)}, object)
	if err == nil && object.Spec.Accepted { // of this object, not of one that has come in its place
		patch := fmt.Sprintf(`{"metadata":{"uid":%q},"spec":{"accepted":false}}`, object.UID)
		err = r.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch)))
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return object, wrap(err, "take the acceptance of the MemberCluster %s back", id)
}

func (r *Registry) leaving(id federation.ClusterID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[id] != nil && r.live[id].leaving
}

// Accepted returns the clusters that are accepted as members, whether or not they have been heard of.
func (r *Registry) Accepted(ctx context.Context) ([]federation.ClusterID, error) {
	var list v1alpha1.MemberClusterList
	if err := r.Reader.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list the MemberClusters: %w", err)
	}
	var out []federation.ClusterID
	for i := range list.Items {
		if m := &list.Items[i]; m.Spec.Accepted && m.DeletionTimestamp.IsZero() {
			out = append(out, federation.ClusterID(m.Name))
		}
	}
	return out, nil
}

// Prune removes the clusters that the hub knows and that no MemberCluster names any more, because it was deleted while
// the hub was away. It is to be called once, with the clusters in the hub's store.
func (r *Registry) Prune(ctx context.Context, known []federation.ClusterID) error {
	for _, id := range known {
		err := r.Reader.Get(ctx, types.NamespacedName{Name: string(id)}, &v1alpha1.MemberCluster{})
		if err == nil {
			continue
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for the MemberCluster %s: %w", id, err)
		}
		if err := r.Sink.RemoveCluster(ctx, id); err != nil {
			return fmt.Errorf("remove member %s, whose MemberCluster was deleted: %w", id, err)
		}
	}
	return nil
}

// edit changes what is known of a cluster and has it reconciled.
func (r *Registry) edit(id federation.ClusterID, change func(*live)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.live[id]
	if l == nil {
		l = &live{}
		r.live[id] = l
	}
	change(l)
	r.reconcileLocked(id)
}

// reconcileLocked has a cluster reconciled.
func (r *Registry) reconcileLocked(id federation.ClusterID) {
	if r.queue != nil { // else the first list of the objects comes later anyway
		r.queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: string(id)}})
	}
}

func acceptCommand(id federation.ClusterID) string {
	return fmt.Sprintf(`kubectl patch membercluster %s --type=merge -p '{"spec":{"accepted":true}}'`, id)
}

// locality is the claim's, where the spec says nothing else.
func locality(object *v1alpha1.MemberCluster, c Claim) federation.Locality {
	l := c.Locality
	if object.Spec.Region != "" {
		l.Region = object.Spec.Region
	}
	if object.Spec.Zone != "" {
		l.Zone = object.Spec.Zone
	}
	return l
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
