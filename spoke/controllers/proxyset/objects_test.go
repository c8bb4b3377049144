package proxyset_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

var update = os.Getenv("UPDATE_GOLDEN") != ""

func options() proxyset.Options {
	return proxyset.Options{
		Namespace: "tailgate-system", Image: "registry.example.com/tailgate/spoke:v1", Spoke: "tailgate-spoke.tailgate-system.svc:5007", Cluster: "cluster2",
	}
}

// fullConfig says something of everything.
func fullConfig() v1alpha1.ProxyConfig {
	return v1alpha1.ProxyConfig{
		Replicas: new(int32(3)), ConnectionType: v1alpha1.ConnectionEgress, Image: "registry.example.com/mirror/spoke:v2",
		Resources:    &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("640Mi")}},
		NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
		Tolerations:  []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "proxies", Effect: corev1.TaintEffectNoSchedule}},
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: corev1.NodeSelectorTerm{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "pool", Operator: corev1.NodeSelectorOpIn, Values: []string{"edge"}}},
			}}},
		}},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
			{MaxSkew: 1, TopologyKey: "topology.kubernetes.io/zone", WhenUnsatisfiable: corev1.DoNotSchedule},
			{MaxSkew: 2, TopologyKey: "rack", WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}},
		},
	}
}

// sets are those of the golden files.
func sets() map[string]proxyset.Set {
	full := options()
	full.ImagePullSecrets, full.DrainTimeout, full.LogLevel = []string{"pull"}, time.Minute, "debug"
	scaled := options()
	scaled.Cluster = federation.ClusterID(strings.Repeat("c", 63))
	return map[string]proxyset.Set{
		"defaults": {Key: proxyset.Key{Tailnet: "production-tailnet", Role: spoke.Ingress}, Options: options(), Ordinals: 2},
		"full":     {Key: proxyset.Key{Tailnet: "production-tailnet", Role: spoke.Egress}, Options: full, Config: fullConfig(), Ordinals: 3},
		"scaled-with-long-names": {
			Key:     proxyset.Key{Tailnet: strings.Repeat("a.long.name.of.a.tailnet.", 10), Role: spoke.Ingress},
			Options: scaled, Scaler: "kube-controller-manager", Ordinals: 4,
			Config: v1alpha1.ProxyConfig{Affinity: &corev1.Affinity{}, Resources: &corev1.ResourceRequirements{}}, // no limit, no spreading
		},
	}
}

func TestGoldenObjects(t *testing.T) {
	all := sets()
	for name, set := range all {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, o := range proxyset.Objects(set) {
				fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
				if err != nil {
					t.Fatal(err)
				}
				delete(fields, "status")
				text, err := yaml.Marshal(fields)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n")
				got.Write(text)
			}
			file := filepath.Join("testdata", name+".yaml")
			if update {
				if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("run with UPDATE_GOLDEN=1 after reading this diff (-want +got):\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, ok := all[strings.TrimSuffix(filepath.Base(file), ".yaml")]; ok {
			continue
		}
		if !update {
			t.Errorf("%s is of no set; run with UPDATE_GOLDEN=1 to delete it", file)
		} else if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

// TestNames holds the names to what Kubernetes and a tailnet can have, whatever a tailnet and a cluster are called.
func TestNames(t *testing.T) {
	tailnets := []string{
		"t", "production-tailnet", "production-tailnet-of-the-north", "production-tailnet-of-the-south", "a.b", "a-b", "A-b", "-", ".", "日本",
		strings.Repeat("x", 253), strings.Repeat("x", 252) + "y", "cut-exactly-at-a-dash---after",
	}
	seen := map[string]string{}
	for _, tailnet := range tailnets {
		for _, role := range []spoke.Role{spoke.Ingress, spoke.Egress} {
			for _, cluster := range []federation.ClusterID{"c", federation.ClusterID(strings.Repeat("c", 63))} {
				o := options()
				o.Cluster = cluster
				s := proxyset.Set{Key: proxyset.Key{Tailnet: tailnet, Role: role}, Options: o, Ordinals: 1}
				name := s.String()
				if other, ok := seen[name]; ok && other != tailnet {
					t.Errorf("the %s proxies of %q and of %q are both called %s", role, tailnet, other, name)
				}
				seen[name] = tailnet
				// The longest name that anything gets: a revision of the StatefulSet, as a label.
				if faults := validation.IsDNS1035Label(name + "-0123456789"); len(faults) > 0 {
					t.Errorf("set %s of %q: %v", name, tailnet, faults)
				}
				hostname := strings.ReplaceAll(argument(t, s, "--hostname"), "$(POD_NAME)", name+"-31")
				if faults := validation.IsDNS1123Label(hostname); len(faults) > 0 {
					t.Errorf("host %s of %q: %v", hostname, tailnet, faults)
				}
				for _, object := range proxyset.Objects(s) {
					for key, value := range object.GetLabels() {
						if faults := validation.IsValidLabelValue(value); len(faults) > 0 {
							t.Errorf("label %s of %q: %v", key, tailnet, faults)
						}
					}
				}
			}
		}
	}
}

// argument is the value of one of the proxies' flags.
func argument(t *testing.T, s proxyset.Set, flag string) string {
	t.Helper()
	args := template(t, s).Spec.Containers[0].Args
	i := slices.Index(args, flag)
	if i < 0 || i+1 == len(args) {
		t.Fatalf("no %s in %q", flag, args)
	}
	return args[i+1]
}

// TestRoleOfNothing: a rule without names would be for all Secrets.
func TestRoleOfNothing(t *testing.T) {
	for _, o := range proxyset.Objects(proxyset.Set{Key: proxyset.Key{Tailnet: "t", Role: spoke.Egress}, Options: options()}) {
		if role, ok := o.(*rbacv1.Role); ok && len(role.Rules) > 0 {
			t.Errorf("rules %v of a set without replicas, want none", role.Rules)
		}
	}
}

func TestMemoryLimits(t *testing.T) {
	for name, test := range map[string]struct {
		resources *corev1.ResourceRequirements
		want      string
	}{
		"default":         {nil, "819MiB"},
		"given":           {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("640Mi")}}, "512MiB"},
		"decimal":         {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1G")}}, "762MiB"},
		"far-too-small":   {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Ki")}}, "1MiB"},
		"none":            {&corev1.ResourceRequirements{}, ""},
		"0-means-none":    {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("0")}}, ""},
		"a-cpu-limit":     {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}, ""},
		"only-a-request":  {&corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}, ""},
		"more-than-needs": {&corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Gi")}}, "6553MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			s := proxyset.Set{Key: proxyset.Key{Tailnet: "t", Role: spoke.Egress}, Options: options(), Config: v1alpha1.ProxyConfig{Resources: test.resources}}
			env := map[string]string{}
			for _, e := range template(t, s).Spec.Containers[0].Env {
				env[e.Name] = e.Value
			}
			if got := env["GOMEMLIMIT"]; got != test.want {
				t.Errorf("GOMEMLIMIT %q, want %q; the environment has %v", got, test.want, slices.Sorted(maps.Keys(env)))
			}
		})
	}
}
