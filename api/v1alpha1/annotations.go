package v1alpha1

import (
	"fmt"
	"strconv"
)

// Annotations that a user may put on a Service. They say more than the patterns of a TailscaleGateway's service
// discovery. A value that is none of those named here counts as if the annotation was not there, and an Event on the
// Service says so.
const (
	// AnnotationExpose says whether the Service gets a VIP, whatever patterns select: "true" gives it one, "false" keeps it
	// from getting one. A ServiceExport (multicluster.x-k8s.io) of the Service's name says more than "false": it is an object
	// that is there for this one purpose, which whoever may write the Service may not be allowed to create, and whose
	// status promises an export.
	//
	// A headless Service is exported where this, or a ServiceExport, asks for it, and never by a pattern: its VIP spreads
	// connections over the ready pods, which is not what a headless Service is mostly for. A Service of type
	// ExternalName is not exported; a TailscaleEndpoints with an externalTarget does what it would.
	AnnotationExpose = GroupName + "/expose"
	// AnnotationFederatedVIP with the value "true", also on a Gateway, asks for a VIP of the whole federated service
	// beside the cluster's own: every cluster that asks for it and serves advertises it.
	AnnotationFederatedVIP = GroupName + "/federated-vip"
	// AnnotationWeight is this cluster's share of the federated service's traffic, 1 to 1000, in relation to that of other
	// clusters that are equally near; 1 where it is not there. Clusters that are nearer come first all the same. Where
	// a FailoverPolicy for the service gives weights, those count instead.
	AnnotationWeight = GroupName + "/weight"
	// AnnotationClusterPinned with the value "true" has /cross-cluster/<service>-<cluster>/ lead to this cluster alone. Without
	// it, another cluster takes over when this one does not serve; with it, such requests fail. The federated service,
	// at /cross-cluster/<service>/, fails over in either case.
	AnnotationClusterPinned = GroupName + "/cluster-pinned"
)

// MaxWeight is the greatest value of [AnnotationWeight].
const MaxWeight = 1000

// ServiceAnnotations are what the annotations of a Service say.
//
// +kubebuilder:object:generate=false
type ServiceAnnotations struct {
	// Expose is nil where nothing is said.
	Expose *bool
	// FederatedVIP asks for a VIP of the whole federated service.
	FederatedVIP bool
	// Weight is 1 to MaxWeight, or 0 where none is given.
	Weight uint32
	// ClusterPinned asks that nobody stands in for the cluster where it is named.
	ClusterPinned bool
}

// ReadServiceAnnotations returns what the annotations of a Service say, and for each one that makes no sense a sentence
// that says what to write. It counts as if it was not there.
func ReadServiceAnnotations(annotations map[string]string) (says ServiceAnnotations, problems []string) {
	flag := func(name string) *bool {
		value, ok := annotations[name]
		if ok && value != "true" && value != "false" {
			problems = append(problems, fmt.Sprintf("the annotation %s is %s, which says nothing: write \"true\" or \"false\"", name, quoted(value)))
			ok = false
		}
		if !ok {
			return nil
		}
		return new(value == "true")
	}
	isTrue := func(b *bool) bool { return b != nil && *b }
	says.Expose = flag(AnnotationExpose)
	says.FederatedVIP = isTrue(flag(AnnotationFederatedVIP))
	if value, ok := annotations[AnnotationWeight]; ok {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n < 1 || n > MaxWeight {
			problems = append(problems, fmt.Sprintf("the annotation %s is %s, and the cluster's share is the default of 1: write a number from 1 to %d",
				AnnotationWeight, quoted(value), MaxWeight))
		} else {
			says.Weight = uint32(n)
		}
	}
	says.ClusterPinned = isTrue(flag(AnnotationClusterPinned))
	return says, problems
}

// quoted is the value for a message, which has bounds that a value does not have.
func quoted(value string) string {
	const most = 40
	if runes := []rune(value); len(runes) > most {
		value = string(runes[:most]) + "…"
	}
	return strconv.Quote(value)
}
