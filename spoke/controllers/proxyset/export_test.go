package proxyset

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// Trouble is for tests.
func Trouble(pod *corev1.Pod) string { return trouble(pod) }

// Wish is what TailscaleGateways want of a tailnet's proxies.
type Wish struct {
	Tailnet  string
	Wanting  []string
	Roles    []spoke.Role
	Replicas int32
	Ignored  map[types.NamespacedName]string
}

// Wishes is for tests.
func Wishes(all []v1alpha1.TailscaleGateway) []Wish {
	var out []Wish
	for _, w := range wishes(all) {
		o := Wish{Tailnet: w.tailnet, Roles: w.roles(), Replicas: Set{Config: w.config}.replicas(), Ignored: w.ignored}
		for _, t := range w.wanting {
			o.Wanting = append(o.Wanting, t.Namespace+"/"+t.Name)
		}
		out = append(out, o)
	}
	return out
}
