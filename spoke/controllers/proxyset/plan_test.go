package proxyset_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

func TestWishes(t *testing.T) {
	// born is so many minutes after the first.
	gateway := func(namespace, name string, born int, tailnets ...v1alpha1.TailnetConfig) v1alpha1.TailscaleGateway {
		at := time.Date(2026, 1, 1, 0, born, 0, 0, time.UTC)
		return v1alpha1.TailscaleGateway{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(at)},
			Spec:       v1alpha1.TailscaleGatewaySpec{Tailnets: tailnets},
		}
	}
	on := func(name, tailnet string, proxy *v1alpha1.ProxyConfig) v1alpha1.TailnetConfig {
		return v1alpha1.TailnetConfig{Name: name, TailscaleTailnetRef: v1alpha1.TailnetReference{Name: tailnet}, Proxy: proxy}
	}
	of := func(replicas int32) *v1alpha1.ProxyConfig { return &v1alpha1.ProxyConfig{Replicas: &replicas} }
	both := []spoke.Role{spoke.Ingress, spoke.Egress}
	none := map[types.NamespacedName]string{}
	leaving := gateway("a", "leaving", 0, on("p", "p", of(9)))
	leaving.DeletionTimestamp = new(metav1.Now())
	for name, test := range map[string]struct {
		all  []v1alpha1.TailscaleGateway
		want []proxyset.Wish
	}{
		"nobody":         {},
		"only-a-leaving": {all: []v1alpha1.TailscaleGateway{leaving}},
		"defaults":       {[]v1alpha1.TailscaleGateway{gateway("a", "g", 0, on("p", "p-net", nil))}, []proxyset.Wish{{"p-net", []string{"a/g"}, both, 2, none}}},
		"several-tailnets": {
			[]v1alpha1.TailscaleGateway{gateway("a", "g", 0, on("q", "q-net", of(3)), on("p", "p-net", nil))},
			[]proxyset.Wish{{"p-net", []string{"a/g"}, both, 2, none}, {"q-net", []string{"a/g"}, both, 3, none}},
		},
		"the-oldest-that-says-something": {
			[]v1alpha1.TailscaleGateway{
				gateway("a", "youngest", 3, on("p", "p", of(3))), gateway("z", "says-nothing", 1, on("p", "p", nil)), gateway("b", "second", 2, on("p", "p", of(3))), leaving,
			},
			[]proxyset.Wish{{"p", []string{"z/says-nothing", "b/second", "a/youngest"}, both, 3, none}},
		},
		"of-one-age-by-name": {
			[]v1alpha1.TailscaleGateway{gateway("b", "a", 1, on("p", "p", of(1))), gateway("a", "b", 1, on("p", "p", of(2))), gateway("a", "a", 1, on("p", "p", of(3)))},
			[]proxyset.Wish{{"p", []string{"a/a", "a/b", "b/a"}, both, 3, map[types.NamespacedName]string{
				{Namespace: "a", Name: "b"}: "spec.tailnets[p].proxy does not count: the proxies of TailscaleTailnet p are shared, and " +
					"spec.tailnets[p].proxy of TailscaleGateway a/a comes first; make both say the same, or leave one out",
				{Namespace: "b", Name: "a"}: "spec.tailnets[p].proxy does not count: the proxies of TailscaleTailnet p are shared, and " +
					"spec.tailnets[p].proxy of TailscaleGateway a/a comes first; make both say the same, or leave one out",
			}}},
		},
		"twice-in-one": {
			[]v1alpha1.TailscaleGateway{gateway("a", "g", 0, on("x", "p", of(1)), on("y", "p", of(2)))},
			[]proxyset.Wish{{"p", []string{"a/g"}, both, 1, map[types.NamespacedName]string{
				{Namespace: "a", Name: "g"}: "spec.tailnets[y].proxy does not count: the proxies of TailscaleTailnet p are shared, and " +
					"spec.tailnets[x].proxy of TailscaleGateway a/g comes first; make both say the same, or leave one out",
			}}},
		},
		"egress-only": {
			[]v1alpha1.TailscaleGateway{gateway("a", "g", 0, on("p", "p", &v1alpha1.ProxyConfig{ConnectionType: v1alpha1.ConnectionEgress}))},
			[]proxyset.Wish{{"p", []string{"a/g"}, []spoke.Role{spoke.Egress}, 2, none}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(test.want, proxyset.Wishes(test.all)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}
