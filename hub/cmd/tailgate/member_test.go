package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/hub/departure"
)

func TestLeaveFromTheHub(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		out  []string
		err  string
		left int
	}{
		"dead-one":      {[]string{"cluster3", "--yes"}, []string{"cluster3 has left. 1 VIPs are deleted now; 3 devices", "tailgate leave --cluster cluster3 --member CONTEXT"}, "", 1},
		"device-left":   {[]string{"cluster2", "-y"}, []string{"rest for the hub's --quarantine", "Left: device n7 of TailscaleTailnet lab: forbidden"}, "", 1},
		"unknown":       {[]string{"cluster9", "--yes"}, nil, "cluster cluster9 is not found", 0},
		"nobody-to-ask": {[]string{"cluster3"}, nil, "say --yes", 0},
		"bad-id":        {[]string{"No_Label", "--yes"}, nil, "No_Label", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := federationOfThree()
			out, _, err := run(t, h, append([]string{"leave", "--cluster"}, tc.args...)...)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			for _, want := range tc.out {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
			if len(h.left) != tc.left {
				t.Errorf("left are %v", h.left)
			}
		})
	}
}

// TestLeaveFromBothSides cleans a member on a real API server, of which the hub knows nothing any more.
func TestLeaveFromBothSides(t *testing.T) {
	api := controlplane.ForTest(t)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, controlplane.KubeconfigOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	vip := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "webapp-cluster2", Labels: map[string]string{"gateway.tailscale.com/vip-service": "true"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if err := c.Create(t.Context(), vip); err != nil {
		t.Fatal(err)
	}
	out, _, err := run(t, federationOfThree(), "leave", "--cluster", "cluster9", "--yes", "--kubeconfig", kubeconfig, "--member", currentContext(t, kubeconfig))
	if err != nil || !strings.Contains(out, "cluster cluster9 is not found") || !strings.Contains(out, ": 1 Service.") || !strings.Contains(out, "helm --kube-context") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := run(t, federationOfThree(), "leave", "--cluster", "cluster3", "--yes", "--kubeconfig", kubeconfig, "--member", "nowhere"); err == nil || !strings.Contains(err.Error(), "get-contexts") {
		t.Errorf("of a context that is not there: %v", err)
	}
}

// TestLeaveWithoutAHub has a management cluster that the hub is gone from.
func TestLeaveWithoutAHub(t *testing.T) {
	api := controlplane.ForTest(t)
	if err := api.ApplyFiles(t.Context(), "../../../deploy/crds/gateway.tailscale.com_memberclusters.yaml"); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, controlplane.KubeconfigOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	object := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "orphan"}}
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	object.Status.NodeID, object.Status.Devices = "spoke-1", []v1alpha1.MemberDevice{{NodeID: "proxy-1", Tailnet: "lab"}}
	if err := c.Status().Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	args := []string{"leave", "--cluster", "orphan", "--yes", "--kubeconfig", kubeconfig}
	out, err := runAlone(t, args...)
	if err != nil || !strings.Contains(out, "device spoke-1 of") || !strings.Contains(out, "device proxy-1 of lab") {
		t.Errorf("%v\n%s", err, out)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object); !apierrors.IsNotFound(err) {
		t.Errorf("the MemberCluster is there: %v", err)
	}
	if out, err := runAlone(t, args...); !errors.Is(err, operator.ErrNotFound) || !errors.Is(err, errNoHub) {
		t.Errorf("said again: %v\n%s", err, out)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hub", Labels: map[string]string{"app.kubernetes.io/name": "tailgate-hub"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hub", Image: "hub"}}, AutomountServiceAccountToken: new(false)},
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if err := client.IgnoreAlreadyExists(c.Create(t.Context(), sa)); err != nil {
		t.Fatal(err)
	}
	object = &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "orphan"}}
	for _, o := range []client.Object{pod, object} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := runAlone(t, append(args, "--namespace", "default")...); err == nil || !strings.Contains(err.Error(), "once the hub runs") {
		t.Errorf("with a hub that is not ready: %v", err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Errorf("what the hub has to know of the member is gone: %v", err)
	}
}

// runAlone runs a command with no other hub than the kubeconfig's.
func runAlone(t *testing.T, args ...string) (string, error) {
	t.Helper()
	tl := &tool{now: func() time.Time { return noon }}
	tl.hub = tl.connection.hub
	var out bytes.Buffer
	root := tl.root("tailgate")
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// currentContext is the one of a kubeconfig.
func currentContext(t *testing.T, kubeconfig string) string {
	t.Helper()
	raw, err := (&connection{kubeconfig: kubeconfig}).kube("").RawConfig()
	if err != nil {
		t.Fatal(err)
	}
	return raw.CurrentContext
}
