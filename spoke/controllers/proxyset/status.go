package proxyset

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// Status is how a set is.
type Status struct {
	// Wanted is how many replicas there should be, Ready how many serve.
	Wanted, Ready int32
	// Reason is why the set is not as it should be, one of v1alpha1's: ProxiesNotReady, Conflict or Invalid. It is empty
	// where all is well. A set with a reason may serve all the same: see Ready.
	Reason string
	// Message explains the reason, and says what to do.
	Message string
	// Ignored are the TailscaleGateways whose proxy does not count, each with what it is to be told.
	Ignored map[types.NamespacedName]string
}

// Statuses are those of all sets that there should be.
type Statuses map[Key]Status

// Condition is the condition ProxiesReady of a TailscaleGateway: true where each set that it needs has a replica that
// serves. Its message says what is not as it should be, also where that does no harm yet.
func (s Statuses) Condition(t *v1alpha1.TailscaleGateway) metav1.Condition {
	out := metav1.Condition{
		Type: v1alpha1.ConditionProxiesReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProxiesReady, ObservedGeneration: t.Generation,
	}
	fail := func(reason string) {
		// What somebody has to do something about comes before what may only need time.
		if out.Status == metav1.ConditionTrue || reason == v1alpha1.ReasonConflict || reason == v1alpha1.ReasonInvalid {
			out.Status, out.Reason = metav1.ConditionFalse, cmp.Or(reason, v1alpha1.ReasonProxiesNotReady)
		}
	}
	var messages []string
	for _, c := range t.Spec.Tailnets {
		tailnet := c.TailscaleTailnetRef.Name
		found := false
		for _, role := range []spoke.Role{spoke.Ingress, spoke.Egress} {
			status, ok := s[Key{Tailnet: tailnet, Role: role}]
			if !ok {
				continue
			}
			found = true
			if status.Ready == 0 {
				fail(status.Reason)
			}
			messages = append(messages, status.Message, status.Ignored[client.ObjectKeyFromObject(t)])
		}
		if !found {
			fail(v1alpha1.ReasonPending)
			messages = append(messages, fmt.Sprintf("the proxies for TailscaleTailnet %s are not made yet", tailnet))
		}
	}
	out.Message = strings.Join(distinct(messages), "; ")
	return out
}

// distinct leaves out empty texts and those that came before.
func distinct(texts []string) []string {
	var out []string
	for _, text := range texts {
		if text != "" && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// judge says how a set is. failed is what kept its objects from being made.
func (p *pass) judge(s Set, w wish, failed error) Status {
	out := Status{Wanted: s.replicas(), Ignored: w.ignored}
	var messages []string
	if failed != nil {
		out.Reason = v1alpha1.ReasonProxiesNotReady
		if refused, ok := errors.AsType[refusal](failed); ok {
			out.Reason = refused.reason
		}
		messages = append(messages, failed.Error())
	}
	if s.Scaler != "" {
		out.Wanted = *p.sets[s.group()].Spec.Replicas
		messages = append(messages, scaled(s, out.Wanted))
	}
	problem, ready := troubles(s, out.Wanted, p.pods[s.group()])
	out.Ready = ready
	if problem != "" {
		out.Reason = cmp.Or(out.Reason, v1alpha1.ReasonProxiesNotReady)
		messages = append(messages, problem)
	}
	out.Message = strings.Join(messages, "; ")
	return out
}

// scaled says that somebody else counts.
func scaled(s Set, replicas int32) string {
	return fmt.Sprintf("StatefulSet %s/%s has %d replicas and not %d, because %s has scaled it: to follow the TailscaleGateway again, "+
		"`kubectl -n %s delete statefulset %s --cascade=orphan`", s.Namespace, s, replicas, s.replicas(), s.Scaler, s.Namespace, s)
}

// troubles counts the pods that serve, and says what keeps the others from it.
func troubles(s Set, wanted int32, pods []corev1.Pod) (problem string, ready int32) {
	pods = slices.SortedFunc(slices.Values(pods), func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	var exist int32
	var texts []string
	for i := range pods {
		if !pods[i].DeletionTimestamp.IsZero() {
			continue
		}
		exist++
		text := trouble(&pods[i])
		if text == "" {
			ready++
			continue
		}
		texts = append(texts, fmt.Sprintf("pod %s %s", pods[i].Name, text))
	}
	if exist < wanted {
		texts = append(texts, fmt.Sprintf("%d of the %d pods of StatefulSet %s/%s exist: where that stays so, `kubectl -n %s describe statefulset %s` says why",
			exist, wanted, s.Namespace, s, s.Namespace, s))
	}
	if len(texts) == 0 {
		return "", ready
	}
	return fmt.Sprintf("%d of %d %s proxies for TailscaleTailnet %s are ready: %s", ready, wanted, s.Role, s.Tailnet, strings.Join(texts, ", ")), ready
}

// trouble says why a pod does not serve; it is empty where it does.
func trouble(pod *corev1.Pod) string {
	if c := podCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return ""
	}
	if c := podCondition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		return "cannot be scheduled: " + cut(c.Message)
	}
	for i := range pod.Status.ContainerStatuses {
		if c := &pod.Status.ContainerStatuses[i]; c.Name == containerName {
			return containerTrouble(pod, c)
		}
	}
	if pod.Status.Reason != "" { // such as Evicted
		return fmt.Sprintf("is not running: %s: %s", pod.Status.Reason, cut(pod.Status.Message))
	}
	return "is about to start"
}

func containerTrouble(pod *corev1.Pod, c *corev1.ContainerStatus) string {
	ended := c.LastTerminationState.Terminated
	if c.State.Terminated != nil {
		ended = c.State.Terminated
	}
	why := ""
	switch {
	case ended == nil:
	case ended.Reason == "OOMKilled":
		why = "it used more memory than its limit: raise spec.tailnets[].proxy.resources.limits.memory"
	case strings.TrimSpace(ended.Message) != "":
		why = fmt.Sprintf("it ended with code %d: %s", ended.ExitCode, lastLine(ended.Message))
	default:
		why = fmt.Sprintf("it ended with code %d", ended.ExitCode)
	}
	waiting := c.State.Waiting
	switch {
	case waiting != nil && waiting.Reason == "CrashLoopBackOff", c.State.Terminated != nil:
		return "does not keep running: " + cmp.Or(why, "it ends at once")
	case waiting != nil && (waiting.Reason == "ContainerCreating" || waiting.Reason == "PodInitializing" || waiting.Reason == ""):
		return "is about to start"
	case waiting != nil:
		return fmt.Sprintf("does not start: %s: %s", waiting.Reason, cut(waiting.Message))
	case why != "":
		return "was started again and is not ready: " + why
	}
	return fmt.Sprintf("runs and is not ready: `kubectl -n %s logs %s` says why", pod.Namespace, pod.Name)
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// maxText is how much of somebody else's text a message has.
const maxText = 300

func cut(text string) string {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "")
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// lastLine is the last thing that a proxy said.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return cut(lines[len(lines)-1])
}
