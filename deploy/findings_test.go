package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/spoke"
)

// workload is what has pods.
type workload struct {
	name     string
	template corev1.PodTemplateSpec
}

func workloads(t *testing.T, objects []*unstructured.Unstructured) []workload {
	t.Helper()
	var out []workload
	for _, s := range all[appsv1.StatefulSet](t, objects, "StatefulSet") {
		if !matches(t, s.Spec.Selector, s.Spec.Template.Labels) {
			t.Errorf("StatefulSet %s does not select its own pods", s.Name)
		}
		out = append(out, workload{s.Name, s.Spec.Template})
	}
	return out
}

func matches(t *testing.T, selector *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(set))
}

// findings are what is bad about objects that belong together, as linters of manifests would say.
func findings(t *testing.T, objects []*unstructured.Unstructured) []string {
	t.Helper()
	var out []string
	for _, o := range objects {
		if o.GetLabels()["app.kubernetes.io/part-of"] != "tailgate" {
			out = append(out, title(o)+" cannot be found by the label of all that is Tailgate's")
		}
	}
	pods := workloads(t, objects)
	for _, w := range pods {
		out = append(out, podFindings(w)...)
	}
	selected := func(selector *metav1.LabelSelector) bool {
		return slices.ContainsFunc(pods, func(w workload) bool { return matches(t, selector, w.template.Labels) })
	}
	for _, b := range all[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget") {
		if !selected(b.Spec.Selector) {
			out = append(out, "budget "+b.Name+" selects no pod")
		}
		if b.Spec.MinAvailable != nil {
			out = append(out, "budget "+b.Name+" can keep a node from being drained")
		}
	}
	for _, s := range all[corev1.Service](t, objects, "Service") {
		if !selected(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}) {
			out = append(out, "Service "+s.Name+" selects no pod")
		}
		out = append(out, portFindings(t, s, pods)...)
	}
	for _, n := range all[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
		if !selected(&n.Spec.PodSelector) {
			out = append(out, "NetworkPolicy "+n.Name+" selects no pod")
		}
	}
	for _, a := range all[corev1.ServiceAccount](t, objects, "ServiceAccount") {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			out = append(out, "ServiceAccount "+a.Name+" gives its token to every pod")
		}
	}
	return out
}

// portFindings looks for ports of a Service that its pods do not have.
func portFindings(t *testing.T, s corev1.Service, pods []workload) []string {
	t.Helper()
	var out []string
	for _, w := range pods {
		if !matches(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, w.template.Labels) {
			continue
		}
		for _, p := range s.Spec.Ports {
			found := slices.ContainsFunc(w.template.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
				return c.Name == p.TargetPort.StrVal && c.ContainerPort == p.Port
			})
			if !found {
				out = append(out, fmt.Sprintf("Service %s: %s has no port %s", s.Name, w.name, p.TargetPort.String()))
			}
		}
	}
	return out
}

func podFindings(w workload) []string {
	var out []string
	say := func(bad bool, what string) {
		if bad {
			out = append(out, w.name+": "+what)
		}
	}
	spec := w.template.Spec
	say(spec.HostNetwork || spec.HostPID || spec.HostIPC, "is in a namespace of the host")
	say(spec.ServiceAccountName == "" || spec.ServiceAccountName == "default", "has no ServiceAccount of its own")
	for _, v := range spec.Volumes {
		say(v.HostPath != nil, "mounts a path of the host")
	}
	p := spec.SecurityContext
	say(p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0, "may run as root")
	say(p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "has no seccomp profile")
	for _, c := range containers(spec) {
		_, tag, tagged := strings.Cut(c.Image[strings.LastIndexByte(c.Image, '/')+1:], ":")
		say(!strings.Contains(c.Image, "@sha256:") && (!tagged || tag == "latest"), "its image has no version")
		s := c.SecurityContext
		say(s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem, "may write to its root file system")
		say(s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Privileged != nil && *s.Privileged, "may gain privileges")
		say(s == nil || s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0, "has capabilities")
		for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			_, requested := c.Resources.Requests[r]
			say(!requested, "requests no "+string(r))
		}
		say(c.Resources.Limits.Memory().IsZero(), "has no limit of memory")
		for what, probe := range map[string]*corev1.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe, "startup": c.StartupProbe} {
			say(probe == nil || probe.HTTPGet == nil, "has no "+what+" probe")
			say(probe != nil && probe.HTTPGet != nil && !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.StrVal }),
				"its "+what+" probe asks a port that it does not have")
		}
		for _, m := range c.VolumeMounts {
			say(!slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) && m.Name != "state", "mounts a volume that is not there: "+m.Name)
		}
		for _, e := range c.Env {
			say(e.Value != "" && strings.Contains(strings.ToUpper(e.Name), "KEY"), "has a secret in its environment")
		}
	}
	return out
}

func TestNothingToFind(t *testing.T) {
	for _, name := range charts {
		for variant, v := range variants(t, name) {
			t.Run(name+"/"+variant, func(t *testing.T) {
				objects := rendered(t, name, deploy.Options{Values: v})
				if name == deploy.Spoke {
					objects = append(objects, append(proxies(t, spoke.Ingress), proxies(t, spoke.Egress)...)...)
				}
				for _, f := range findings(t, objects) {
					t.Error(f)
				}
			})
		}
	}
}

// TestFindings breaks one thing after the other, and wants it found.
func TestFindings(t *testing.T) {
	pod := func(change func(*corev1.PodTemplateSpec)) func(t *testing.T, objects []*unstructured.Unstructured) {
		return func(t *testing.T, objects []*unstructured.Unstructured) {
			o := only(t, objects, "StatefulSet", deploy.Hub)
			s := as[appsv1.StatefulSet](t, o)
			change(&s.Spec.Template)
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
			if err != nil {
				t.Fatal(err)
			}
			o.Object = content
		}
	}
	container := func(change func(*corev1.Container)) func(t *testing.T, objects []*unstructured.Unstructured) {
		return pod(func(p *corev1.PodTemplateSpec) { change(&p.Spec.Containers[0]) })
	}
	set := func(kind string, value any, path ...string) func(t *testing.T, objects []*unstructured.Unstructured) {
		return func(t *testing.T, objects []*unstructured.Unstructured) {
			if err := unstructured.SetNestedField(only(t, objects, kind, deploy.Hub).Object, value, path...); err != nil {
				t.Fatal(err)
			}
		}
	}
	other := map[string]any{"app": "other"}
	for name, tc := range map[string]struct {
		change func(t *testing.T, objects []*unstructured.Unstructured)
		want   string
	}{
		"host-network":   {pod(func(p *corev1.PodTemplateSpec) { p.Spec.HostNetwork = true }), "is in a namespace of the host"},
		"account":        {pod(func(p *corev1.PodTemplateSpec) { p.Spec.ServiceAccountName = "" }), "has no ServiceAccount of its own"},
		"root":           {pod(func(p *corev1.PodTemplateSpec) { p.Spec.SecurityContext.RunAsUser = new(int64(0)) }), "may run as root"},
		"seccomp":        {pod(func(p *corev1.PodTemplateSpec) { p.Spec.SecurityContext.SeccompProfile = nil }), "has no seccomp profile"},
		"host-path":      {pod(func(p *corev1.PodTemplateSpec) { p.Spec.Volumes = []corev1.Volume{hostPath()} }), "mounts a path of the host"},
		"latest":         {container(func(c *corev1.Container) { c.Image = "registry.example.com:5000/hub:latest" }), "its image has no version"},
		"no-tag":         {container(func(c *corev1.Container) { c.Image = "registry.example.com:5000/hub" }), "its image has no version"},
		"root-fs":        {container(func(c *corev1.Container) { c.SecurityContext.ReadOnlyRootFilesystem = nil }), "may write to its root file system"},
		"privileges":     {container(func(c *corev1.Container) { c.SecurityContext.Privileged = new(true) }), "may gain privileges"},
		"capabilities":   {container(func(c *corev1.Container) { c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"} }), "has capabilities"},
		"request":        {container(func(c *corev1.Container) { delete(c.Resources.Requests, "cpu") }), "requests no cpu"},
		"limit":          {container(func(c *corev1.Container) { c.Resources.Limits = nil }), "has no limit of memory"},
		"probe":          {container(func(c *corev1.Container) { c.ReadinessProbe = nil }), "has no readiness probe"},
		"probe-port":     {container(func(c *corev1.Container) { c.LivenessProbe.HTTPGet.Port.StrVal = "http" }), "its liveness probe asks a port"},
		"volume":         {container(func(c *corev1.Container) { c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "x"}) }), "mounts a volume that is not there: x"},
		"secret":         {container(func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "TS_AUTHKEY", Value: "k"}} }), "has a secret in its environment"},
		"service-port":   {container(func(c *corev1.Container) { c.Ports[0].ContainerPort = 80 }), "tailgate-hub has no port status"},
		"service":        {set("Service", other, "spec", "selector"), "Service tailgate-hub selects no pod"},
		"budget":         {set("PodDisruptionBudget", other, "spec", "selector", "matchLabels"), "budget tailgate-hub selects no pod"},
		"minimum":        {set("PodDisruptionBudget", int64(1), "spec", "minAvailable"), "can keep a node from being drained"},
		"network-policy": {set("NetworkPolicy", other, "spec", "podSelector", "matchLabels"), "NetworkPolicy tailgate-hub selects no pod"},
		"label":          {set("Service", map[string]any{}, "metadata", "labels"), "cannot be found by the label"},
		"token":          {set("ServiceAccount", true, "automountServiceAccountToken"), "gives its token to every pod"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := rendered(t, deploy.Hub, deploy.Options{})
			tc.change(t, objects)
			got := findings(t, objects)
			if !slices.ContainsFunc(got, func(f string) bool { return strings.Contains(f, tc.want) }) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
		})
	}
}

func hostPath() corev1.Volume {
	return corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}
}
