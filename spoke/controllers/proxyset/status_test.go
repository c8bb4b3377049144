package proxyset_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

func terminated(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

// TestTroubles: the message of a pod that does not serve says why, as far as the pod knows.
func TestTroubles(t *testing.T) {
	const refused = `time=1 level=INFO msg="joining the tailnet"
the tailnet refuses the proxy: the auth key does not give tag:k8s
`
	for name, test := range map[string]struct {
		conditions  []corev1.PodCondition
		phase       string
		state, last corev1.ContainerState
		none        bool
		want        string
	}{
		"ready":         {conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, state: running()},
		"just-made":     {none: true, want: "is about to start"},
		"unschedulable": {none: true, conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: 3 Insufficient memory."}}, want: "cannot be scheduled: 0/3 nodes are available: 3 Insufficient memory."},
		"evicted":       {none: true, phase: "Evicted", want: "is not running: Evicted: The node was low on resource: memory."},
		"creating":      {state: waiting("ContainerCreating", ""), want: "is about to start"},
		"no-image":      {state: waiting("ImagePullBackOff", `Back-off pulling image "x": not found`), want: `does not start: ImagePullBackOff: Back-off pulling image "x": not found`},
		"no-secret":     {state: waiting("CreateContainerConfigError", `secret "x" not found`), want: `does not start: CreateContainerConfigError: secret "x" not found`},
		"key-refused": {
			state: waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container"), last: terminated(1, "Error", refused),
			want: "does not keep running: it ended with code 1: the tailnet refuses the proxy: the auth key does not give tag:k8s",
		},
		"just-ended": {state: terminated(2, "Error", ""), want: "does not keep running: it ended with code 2"},
		"oom-killed": {
			state: running(), last: terminated(137, "OOMKilled", ""),
			want: "was started again and is not ready: it used more memory than its limit: raise spec.tailnets[].proxy.resources.limits.memory",
		},
		"not-ready": {state: running(), want: "runs and is not ready: `kubectl -n tailgate-system logs p-0` says why"},
		"long": {
			state: waiting("ErrImagePull", strings.Repeat("é", 1000)), want: "does not start: ErrImagePull: " + strings.Repeat("é", 150) + "…",
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "tailgate-system", Name: "p-0"}, Status: corev1.PodStatus{Conditions: test.conditions}}
			if test.phase != "" {
				pod.Status.Reason, pod.Status.Message = test.phase, "The node was low on resource: memory."
			}
			if !test.none {
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{
					{Name: "sidecar", State: running()}, {Name: "proxy", State: test.state, LastTerminationState: test.last},
				}
			}
			if d := cmp.Diff(test.want, proxyset.Trouble(pod)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestConditions: traffic decides the condition, and what does no harm yet is in the message.
func TestConditions(t *testing.T) {
	gateway := func(tailnets ...string) *v1alpha1.TailscaleGateway {
		out := &v1alpha1.TailscaleGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "g", Generation: 7}}
		for _, name := range tailnets {
			out.Spec.Tailnets = append(out.Spec.Tailnets, v1alpha1.TailnetConfig{Name: "x-" + name, TailscaleTailnetRef: v1alpha1.TailnetReference{Name: name}})
		}
		return out
	}
	in, out := proxyset.Key{Tailnet: "a", Role: spoke.Ingress}, proxyset.Key{Tailnet: "a", Role: spoke.Egress}
	well := proxyset.Status{Wanted: 2, Ready: 2}
	for name, test := range map[string]struct {
		statuses                proxyset.Statuses
		tailnets                []string
		status, reason, message string
	}{
		"all-well":     {proxyset.Statuses{in: well, out: well}, []string{"a"}, "True", v1alpha1.ReasonProxiesReady, ""},
		"one-role":     {proxyset.Statuses{in: well}, []string{"a"}, "True", v1alpha1.ReasonProxiesReady, ""},
		"nothing-yet":  {nil, []string{"a"}, "False", v1alpha1.ReasonPending, "the proxies for TailscaleTailnet a are not made yet"},
		"one-is-there": {proxyset.Statuses{in: well, out: {Wanted: 2, Ready: 1, Reason: v1alpha1.ReasonProxiesNotReady, Message: "one"}}, []string{"a"}, "True", v1alpha1.ReasonProxiesReady, "one"},
		"none-is-there": {
			proxyset.Statuses{in: {Wanted: 2, Reason: v1alpha1.ReasonProxiesNotReady, Message: "none"}, out: well}, []string{"a"}, "False", v1alpha1.ReasonProxiesNotReady, "none",
		},
		"conflict-that-does-no-harm": {
			proxyset.Statuses{in: {Wanted: 2, Ready: 2, Reason: v1alpha1.ReasonConflict, Message: "theirs"}, out: well}, []string{"a"}, "True", v1alpha1.ReasonProxiesReady, "theirs",
		},
		"conflict-comes-first": {
			proxyset.Statuses{in: {Wanted: 2, Reason: v1alpha1.ReasonProxiesNotReady, Message: "none"}, out: {Wanted: 2, Reason: v1alpha1.ReasonConflict, Message: "theirs"}},
			[]string{"a"}, "False", v1alpha1.ReasonConflict, "none; theirs",
		},
		"told-once": {
			proxyset.Statuses{
				in:  {Wanted: 2, Ready: 2, Ignored: map[types.NamespacedName]string{{Namespace: "default", Name: "g"}: "not you", {Namespace: "default", Name: "h"}: "nor you"}},
				out: {Wanted: 2, Ready: 2, Ignored: map[types.NamespacedName]string{{Namespace: "default", Name: "g"}: "not you"}},
			}, []string{"a"}, "True", v1alpha1.ReasonProxiesReady, "not you",
		},
		"another-tailnet": {proxyset.Statuses{in: well, out: well}, []string{"a", "b"}, "False", v1alpha1.ReasonPending, "the proxies for TailscaleTailnet b are not made yet"},
	} {
		t.Run(name, func(t *testing.T) {
			want := metav1.Condition{
				Type: v1alpha1.ConditionProxiesReady, Status: metav1.ConditionStatus(test.status), Reason: test.reason, Message: test.message, ObservedGeneration: 7,
			}
			if d := cmp.Diff(want, test.statuses.Condition(gateway(test.tailnets...))); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}
