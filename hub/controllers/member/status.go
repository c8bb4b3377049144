package member

import (
	"fmt"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// ConditionIdentityConflict says whether another node than the one that holds the cluster id asks for it.
//
// True: it asked within the last five minutes and was refused. Reason: ClusterIDTaken. The message names it.
//
// The condition is absent otherwise.
const ConditionIdentityConflict = "IdentityConflict"

const (
	// seenStep is how often what a connected member has reached is written, if it is something else than before.
	seenStep = time.Minute
	// conflictLife is how long after the last try a conflict is shown.
	conflictLife = 5 * time.Minute
)

// describe returns the status of a cluster and when, after now, time alone will change it; zero means never.
func describe(object *v1alpha1.MemberCluster, l live, now time.Time) (status v1alpha1.MemberClusterStatus, next time.Duration) {
	status = *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	set := func(c metav1.Condition) {
		c.ObservedGeneration = object.Generation
		c.LastTransitionTime = metav1.NewTime(now)
		meta.SetStatusCondition(&status.Conditions, c)
	}
	set(accepted(object, l))
	set(connected(object, l))
	if object.Spec.Accepted && l.member {
		set(synced(l))
		status.Versions = l.claim.Versions
		status.Devices = union(status.Devices, l.devices)
		status.Addresses = []v1alpha1.Address{v1alpha1.Address(l.claim.Addr.Addr().String())}
		next = seen(&status, l, now)
	} else {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionSynced)
	}
	left := l.rivalAt.Add(conflictLife).Sub(now)
	if l.rival == nil || left <= 0 {
		meta.RemoveStatusCondition(&status.Conditions, ConditionIdentityConflict)
		return status, next
	}
	set(metav1.Condition{
		Type: ConditionIdentityConflict, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonClusterIDTaken,
		Message: fmt.Sprintf("node %s (%s) asks for this cluster id, which belongs to node %s: give that cluster another id, or, if it takes "+
			"this one's place, delete the old device from the tailnet and this MemberCluster", l.rival.NodeName, l.rival.NodeID, status.NodeID),
	})
	if next == 0 || left < next {
		next = left
	}
	return status, next
}

// seen brings LastSeen and what is written along with it up to date, if it is time, and returns when it will be again. That a
// connected member is still there is no reason to write: the condition says so.
func seen(status *v1alpha1.MemberClusterStatus, l live, now time.Time) time.Duration {
	epoch, version := int64(min(l.progress.Epoch, math.MaxInt64)), int64(min(l.progress.Version, math.MaxInt64))
	exports := int32(min(l.progress.Exports, math.MaxInt32))
	at := now
	if !l.linked {
		if l.lost.IsZero() {
			return 0
		}
		at = l.lost
	}
	if last := status.LastSeen; l.linked && last != nil {
		if age := now.Sub(last.Time); age >= 0 && age < seenStep {
			return seenStep - age
		}
		if before := *status; before.Epoch == epoch && before.SnapshotVersion == version && before.Exports == exports {
			return seenStep
		}
	}
	stamp := metav1.NewTime(at.Truncate(time.Second)) // the API keeps no fractions
	if status.LastSeen == nil || !status.LastSeen.Equal(&stamp) {
		status.LastSeen = &stamp
		status.Epoch, status.SnapshotVersion, status.Exports = epoch, version, exports
	}
	if !l.linked {
		return 0
	}
	return seenStep
}

func accepted(object *v1alpha1.MemberCluster, l live) metav1.Condition {
	if object.Spec.Accepted {
		return metav1.Condition{
			Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted,
			Message: "the cluster may take part",
		}
	}
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNotAccepted}
	c.Message = "to let the cluster in, run: " + acceptCommand(federation.ClusterID(object.Name))
	if l.claim != nil {
		c.Message = fmt.Sprintf("node %s (%s) asks to join; ", l.claim.NodeName, l.claim.NodeID) + c.Message
	}
	return c
}

func connected(object *v1alpha1.MemberCluster, l live) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionFalse}
	switch {
	case !l.member && object.Status.FirstJoined == nil:
		c.Reason, c.Message = v1alpha1.ReasonNeverJoined, "no spoke has joined under this name"
	case !l.linked:
		c.Reason, c.Message = v1alpha1.ReasonLinkLost, "the spoke's link is not there"
		if l.linkReason != "" {
			c.Message += ": " + l.linkReason
		}
	case !l.api.known:
		c.Status = metav1.ConditionUnknown
		c.Reason, c.Message = v1alpha1.ReasonSyncing, "the link is there, the first answer of the API server is awaited"
	case !l.api.up:
		c.Reason, c.Message = v1alpha1.ReasonAPIUnreachable, l.api.reason
	default:
		c.Status = metav1.ConditionTrue
		c.Reason, c.Message = v1alpha1.ReasonConnected, "the link is there and the API server answers"
	}
	return c
}

func synced(l live) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionSynced, Status: metav1.ConditionFalse}
	switch {
	case !l.api.known:
		c.Reason, c.Message = v1alpha1.ReasonSyncing, "the first lists are under way"
	case !l.api.up:
		c.Reason, c.Message = v1alpha1.ReasonAPIUnreachable, l.api.reason
	default:
		c.Status = metav1.ConditionTrue
		c.Reason, c.Message = v1alpha1.ReasonSynced, l.api.reason
	}
	return c
}

// union is what is in either, the older ones first. A status has no room for more than the newest of too many.
func union(old, now []v1alpha1.MemberDevice) []v1alpha1.MemberDevice {
	out := slices.Clone(old)
	for _, d := range now {
		if !slices.ContainsFunc(out, func(o v1alpha1.MemberDevice) bool { return o.NodeID == d.NodeID }) {
			out = append(out, d)
		}
	}
	return out[max(0, len(out)-maxDevices):]
}
