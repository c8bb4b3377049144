package serviceexport

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// ReasonNoPorts is the reason of the condition Valid, which is False then, where a Service has no port that a VIP can
// carry. The other reasons are KEP-1645's.
const ReasonNoPorts mcsv1beta1.ServiceExportConditionReason = "NoPorts"

// Refusal says why a Service cannot be exported by whatever asks for it, and what to do instead; nothing if it can.
func Refusal(svc *corev1.Service) (reason mcsv1beta1.ServiceExportConditionReason, message string) {
	carried := func(p corev1.ServicePort) bool { return p.Protocol != corev1.ProtocolSCTP }
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return mcsv1beta1.ServiceExportReasonInvalidServiceType, fmt.Sprintf("a Service of type ExternalName has no endpoints of its own and is not exported: "+
			"create a TailscaleEndpoints with an endpoint whose externalTarget is %q and its port", bounded(svc.Spec.ExternalName))
	case svc.Labels[v1alpha1.LabelVIPService] == "true":
		return mcsv1beta1.ServiceExportReasonInvalidServiceType,
			"the Service stands for a VIP of the federation and is not exported again: export the Service behind it, in its own cluster"
	case !slices.ContainsFunc(svc.Spec.Ports, carried):
		return ReasonNoPorts, "the Service has no TCP or UDP port, and a VIP is reached by its ports: add those of its pods to spec.ports"
	}
	return "", ""
}

// bounded keeps a value of somebody's from filling a message.
func bounded(s string) string { return s[:min(len(s), 253)] }

// world is what the conditions of ServiceExports follow from.
type world struct {
	// joined is set where a TailscaleGateway joins the cluster to a tailnet.
	joined bool
	// heard is set once the hub has said anything, up while it can be reached.
	heard, up bool
	link      string
	vips      map[federation.ServiceID]federation.VIP
	notices   map[string]federation.Notice
	// tailnet is what the hub refuses of a tailnet, if it does.
	tailnet *federation.Notice
}

func newWorld(now spoke.Status, joined bool) world {
	w := world{
		joined: joined, heard: now.Version > 0, up: now.Link.Up, link: now.Link.Message,
		vips: make(map[federation.ServiceID]federation.VIP, len(now.VIPs)), notices: make(map[string]federation.Notice, len(now.Notices)),
	}
	for _, v := range now.VIPs {
		w.vips[v.Owner.Service] = v
	}
	for _, n := range now.Notices {
		w.notices[n.Subject] = n
		if strings.HasPrefix(n.Subject, "tailnet/") && w.tailnet == nil {
			w.tailnet = &n
		}
	}
	return w
}

// judge returns the conditions that a ServiceExport should have, of those that are the spoke's to write. svc is nil where
// there is no Service of its name.
func judge(x *mcsv1beta1.ServiceExport, svc *corev1.Service, w world) []metav1.Condition {
	next := slices.Clone(x.Status.Conditions)
	valid := valid(x, svc)
	for _, c := range []metav1.Condition{valid, w.ready(x, valid), w.conflict(x)} {
		// Nothing here follows from the object's spec, and the oldest schemas drop a generation: it is not said.
		meta.SetStatusCondition(&next, c)
	}
	return next
}

func condition(
	kind mcsv1beta1.ServiceExportConditionType, status metav1.ConditionStatus, reason mcsv1beta1.ServiceExportConditionReason, message string,
) metav1.Condition {
	return metav1.Condition{Type: string(kind), Status: status, Reason: string(reason), Message: message}
}

func valid(x *mcsv1beta1.ServiceExport, svc *corev1.Service) metav1.Condition {
	if svc == nil || !svc.DeletionTimestamp.IsZero() {
		return condition(mcsv1beta1.ServiceExportConditionValid, metav1.ConditionFalse, mcsv1beta1.ServiceExportReasonNoService,
			fmt.Sprintf("there is no Service %q in namespace %q: create it, or delete the ServiceExport", x.Name, x.Namespace))
	}
	if reason, message := Refusal(svc); reason != "" {
		return condition(mcsv1beta1.ServiceExportConditionValid, metav1.ConditionFalse, reason, message)
	}
	return condition(mcsv1beta1.ServiceExportConditionValid, metav1.ConditionTrue, mcsv1beta1.ServiceExportReasonValid, "")
}

// ready says whether the Service has its VIP. One that it has stays, and serves, while the hub is away.
func (w world) ready(x *mcsv1beta1.ServiceExport, valid metav1.Condition) metav1.Condition {
	id := federation.Service(x.Namespace, x.Name)
	no := func(reason mcsv1beta1.ServiceExportConditionReason, message string) metav1.Condition {
		return condition(mcsv1beta1.ServiceExportConditionReady, metav1.ConditionFalse, reason, message)
	}
	vip, has := w.vips[id]
	refused, isRefused := w.notices["export/"+id.String()]
	switch {
	case valid.Status != metav1.ConditionTrue:
		return no(mcsv1beta1.ServiceExportReasonFailed, "there is nothing to export: "+valid.Message)
	case has && len(vip.Addrs) > 0:
		return condition(mcsv1beta1.ServiceExportConditionReady, metav1.ConditionTrue, mcsv1beta1.ServiceExportReasonExported,
			fmt.Sprintf("exported as svc:%s at %s", vip.ServiceName, spell(vip)))
	case isRefused:
		return no(mcsv1beta1.ServiceExportReasonFailed, refused.Reason+": "+refused.Message)
	case !w.joined:
		return no(mcsv1beta1.ServiceExportReasonPending, "no TailscaleGateway joins this cluster to a tailnet: create one")
	case w.tailnet != nil:
		return no(mcsv1beta1.ServiceExportReasonFailed, w.tailnet.Reason+": "+w.tailnet.Message)
	case !w.heard || !w.up:
		return condition(mcsv1beta1.ServiceExportConditionReady, metav1.ConditionUnknown, mcsv1beta1.ServiceExportReasonPending,
			"the hub gives VIPs and cannot be reached: "+w.link)
	}
	return no(mcsv1beta1.ServiceExportReasonPending, "the hub has not given a VIP yet")
}

func (w world) conflict(x *mcsv1beta1.ServiceExport) metav1.Condition {
	n, ok := w.notices["conflict/"+federation.Service(x.Namespace, x.Name).String()]
	if !ok {
		return condition(mcsv1beta1.ServiceExportConditionConflict, metav1.ConditionFalse, mcsv1beta1.ServiceExportReasonNoConflicts, "")
	}
	return condition(mcsv1beta1.ServiceExportConditionConflict, metav1.ConditionTrue, mcsv1beta1.ServiceExportConditionReason(n.Reason), n.Message)
}

func spell(v federation.VIP) string {
	words := make([]string, 0, len(v.Addrs))
	for _, a := range v.Addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}
