package exportevent

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/serviceexport"
)

// Reasons of the Events. Those of refusals and conflicts are the hub's: VIPRefused, VIPConflict, PortConflict.
const (
	// ReasonVIPAssigned tells that an export has got its VIP, ReasonVIPChanged that it has another one.
	ReasonVIPAssigned = "VIPAssigned"
	ReasonVIPChanged  = "VIPChanged"
	// ReasonVIPWithdrawn tells that what was exported no longer is.
	ReasonVIPWithdrawn = "VIPWithdrawn"
	// ReasonFederatedVIPAdvertised tells that this cluster advertises the VIP of the federated service from now on, and
	// ReasonFederatedVIPWithdrawn that it does no longer, as while it does not serve.
	ReasonFederatedVIPAdvertised = "FederatedVIPAdvertised"
	ReasonFederatedVIPWithdrawn  = "FederatedVIPWithdrawn"
	// ReasonConflictResolved tells that the clusters agree on a service again.
	ReasonConflictResolved = "ConflictResolved"
	// ReasonInvalidAnnotation tells of an annotation that says nothing, ReasonNotExported of a Service that asks for an
	// export by its annotation and cannot have it.
	ReasonInvalidAnnotation = "InvalidAnnotation"
	ReasonNotExported       = "NotExported"
)

// Event is something that a user of an object would want to know.
type Event struct {
	// Type is corev1.EventTypeNormal or EventTypeWarning.
	Type string
	// Reason is a CamelCase word, Message a sentence.
	Reason, Message string
}

func normal(reason, message string) Event { return Event{corev1.EventTypeNormal, reason, message} }

// facts are what is so of one export.
type facts struct {
	// vip and shared name the export's own VIP and the federated one, empty while there is none.
	vip, shared string
	// tailnet is the name of the tailnet of either.
	tailnet string
	// refused and conflict are the hub's notices, zero while there are none.
	refused, conflict federation.Notice
}

// read returns the facts of all exports of which there are any.
func read(now spoke.Status) map[federation.ServiceID]facts {
	out := map[federation.ServiceID]facts{}
	edit := func(id federation.ServiceID, f func(*facts)) {
		x := out[id]
		f(&x)
		out[id] = x
	}
	for _, v := range now.VIPs {
		edit(v.Owner.Service, func(x *facts) { x.vip, x.tailnet = spell(v), v.Tailnet })
	}
	for _, v := range now.FederatedVIPs {
		edit(v.Owner.Service, func(x *facts) { x.shared, x.tailnet = spell(v), v.Tailnet })
	}
	for _, n := range now.Notices {
		kind, service, _ := strings.Cut(n.Subject, "/")
		id, err := federation.ParseServiceID(service)
		if err != nil {
			continue // it is about a tailnet, which the TailscaleGateway's conditions tell
		}
		switch kind {
		case "export":
			edit(id, func(x *facts) { x.refused = n })
		case "conflict":
			edit(id, func(x *facts) { x.conflict = n })
		}
	}
	return out
}

func spell(v federation.VIP) string {
	words := make([]string, 0, len(v.Addrs))
	for _, a := range v.Addrs {
		words = append(words, a.String())
	}
	return fmt.Sprintf("svc:%s at %s", v.ServiceName, strings.Join(words, ", "))
}

// compare returns the Events that tell how the facts of an export have changed.
func compare(was, is facts) []Event {
	var out []Event
	switch {
	case was.vip == is.vip:
	case was.vip == "":
		out = append(out, normal(ReasonVIPAssigned, "exported as "+is.vip))
	case is.vip == "":
		out = append(out, normal(ReasonVIPWithdrawn, "no longer exported: "+was.vip+" is withdrawn"))
	default:
		out = append(out, normal(ReasonVIPChanged, "exported as "+is.vip+", no longer as "+was.vip))
	}
	switch {
	case was.shared == is.shared:
	case is.shared == "":
		out = append(out, normal(ReasonFederatedVIPWithdrawn, "this cluster no longer advertises the federated "+was.shared))
	default:
		out = append(out, normal(ReasonFederatedVIPAdvertised, "this cluster advertises the federated "+is.shared))
	}
	if was.refused != is.refused && is.refused != (federation.Notice{}) {
		out = append(out, Event{corev1.EventTypeWarning, is.refused.Reason, is.refused.Message})
	}
	switch none := (federation.Notice{}); {
	case was.conflict == is.conflict:
	case is.conflict == none:
		out = append(out, normal(ReasonConflictResolved, "the service is the same in all clusters again"))
	default:
		out = append(out, Event{corev1.EventTypeWarning, is.conflict.Reason, is.conflict.Message})
	}
	return out
}

// advice returns what is to be said of a Service as it was written: the annotations that make no sense, and what it asks
// for and cannot have. That a pattern selects a Service that cannot be exported is no news to anybody.
func advice(svc *corev1.Service) []Event {
	if !svc.DeletionTimestamp.IsZero() || svc.Labels[v1alpha1.LabelVIPService] == "true" {
		return nil
	}
	says, problems := v1alpha1.ReadServiceAnnotations(svc.Annotations)
	var out []Event
	for _, p := range problems {
		out = append(out, Event{corev1.EventTypeWarning, ReasonInvalidAnnotation, p})
	}
	if says.Expose == nil || !*says.Expose {
		return out
	}
	if reason, message := serviceexport.Refusal(svc); reason != "" {
		out = append(out, Event{corev1.EventTypeWarning, ReasonNotExported, message})
	}
	return out
}

// without returns the events that are not among those that were told.
func without(events, told []Event) []Event {
	return slices.DeleteFunc(slices.Clone(events), func(e Event) bool { return slices.Contains(told, e) })
}
