package tailnetendpoints_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailnetendpoints"
)

func tailnet(name, ref string) v1alpha1.TailnetConfig {
	return v1alpha1.TailnetConfig{Name: name, TailscaleTailnetRef: v1alpha1.TailnetReference{Name: ref}}
}

func TestReconciler(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	api := controlplane.ForTest(t)
	crds := filepath.FromSlash("../../../deploy/crds/gateway.tailscale.com_")
	must(api.ApplyFiles(ctx, crds+"tailscalegateways.yaml", crds+"tailscaleendpoints.yaml"))
	scheme := runtime.NewScheme()
	must(errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	c, err := client.New(api.RESTConfig(), client.Options{Scheme: scheme})
	must(err)
	var told []string
	r := &tailnetendpoints.Reconciler{Client: c, Record: func(o client.Object, reason, message string) {
		told = append(told, o.GetName()+" "+reason+" "+message)
	}}
	g := &v1alpha1.TailscaleGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main"}, Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"}, Tailnets: []v1alpha1.TailnetConfig{tailnet("production", "acme"), tailnet("partner", "other")},
	}}
	must(c.Create(ctx, g))
	own := &v1alpha1.TailscaleEndpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main-partner"}, Spec: v1alpha1.TailscaleEndpointsSpec{
		Tailnet: "other", Endpoints: []v1alpha1.TailscaleEndpoint{{Name: "mine", TailscaleIP: "100.64.0.1", Port: 80}},
	}}
	must(c.Create(ctx, own))
	reconcile := func() (names []string, all map[string]v1alpha1.TailscaleEndpoints) {
		t.Helper()
		_, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(g)})
		must(err)
		var list v1alpha1.TailscaleEndpointsList
		must(c.List(ctx, &list))
		all = map[string]v1alpha1.TailscaleEndpoints{}
		for _, o := range list.Items {
			names = append(names, o.Name)
			all[o.Name] = o
		}
		slices.Sort(names)
		return names, all
	}

	names, all := reconcile()
	if !slices.Equal(names, []string{"main-partner", "main-production"}) {
		t.Fatalf("there are %q", names)
	}
	made, left := all["main-production"], all["main-partner"]
	if !metav1.IsControlledBy(&made, g) || made.Spec.Tailnet != "acme" || made.Spec.AutoDiscovery.TagSelectors[0].Tag != "tag:tailgate-endpoint" {
		t.Errorf("made %+v", made)
	}
	if left.UID != own.UID || left.ResourceVersion != own.ResourceVersion {
		t.Error("a user's own object was touched")
	}
	if len(told) != 1 || !strings.Contains(told[0], "main EndpointsConflict TailscaleEndpoints main-partner is somebody else's") {
		t.Errorf("told %q", told)
	}

	// What the user changes stays, and nothing is written or said twice.
	made.Spec.Ports[0].Port = 8080
	must(c.Update(ctx, &made))
	if _, all = reconcile(); all["main-production"].ResourceVersion != made.ResourceVersion {
		t.Errorf("a change of the user's was undone: %+v", all["main-production"].Spec)
	}
	if len(told) != 1 {
		t.Errorf("told again: %q", told)
	}

	// The name stands for another tailnet, then for none.
	must(c.Get(ctx, client.ObjectKeyFromObject(g), g))
	g.Spec.Tailnets[0].TailscaleTailnetRef.Name = "acme-2"
	must(c.Update(ctx, g))
	if _, all = reconcile(); all["main-production"].Spec.Tailnet != "acme-2" {
		t.Errorf("the tailnet is another one now: %+v", all["main-production"].Spec)
	}
	g.Spec.Tailnets = g.Spec.Tailnets[1:]
	must(c.Update(ctx, g))
	if names, _ = reconcile(); !slices.Equal(names, []string{"main-partner"}) {
		t.Errorf("without the tailnet there are %q", names)
	}
	must(c.Delete(ctx, g))
	reconcile()
}
