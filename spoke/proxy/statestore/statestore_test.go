package statestore_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"tailscale.com/ipn"

	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/netns"
	"github.com/tailgate-project/tailgate/spoke/proxy/statestore"
)

func TestMain(m *testing.M) { os.Exit(netns.RunTests(m)) }

// objects are a Secret, and an account that may get and patch this one and nothing else.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: proxies}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ingress, namespace: proxies}
---
apiVersion: v1
kind: Secret
metadata: {name: ingress-0, namespace: proxies, labels: {mine: "true"}}
---
apiVersion: v1
kind: Secret
metadata: {name: ingress-1, namespace: proxies}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: ingress, namespace: proxies}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [ingress-0], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ingress, namespace: proxies}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ingress}
subjects: [{kind: ServiceAccount, name: ingress, namespace: proxies}]
`

func TestASecretKeepsTheState(t *testing.T) {
	api := controlplane.ForTest(t)
	ctx := t.Context()
	if err := api.ApplyYAML(ctx, []byte(objects)); err != nil {
		t.Fatal(err)
	}
	token, err := api.ServiceAccountToken(ctx, "proxies", "ingress")
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(api.RESTConfig())
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	secrets := client.CoreV1().Secrets("proxies")
	open := func(name string) (*statestore.Store, error) {
		return statestore.Open(ctx, secrets, name, slog.New(slog.DiscardHandler))
	}
	s, err := open("ingress-0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadState("_machinekey"); !errors.Is(err, ipn.ErrStateNotExist) {
		t.Errorf("an empty Secret: %v", err)
	}
	binary := []byte{0, 1, 0xff, '"', '\n'}
	for id, value := range map[ipn.StateKey][]byte{"_machinekey": []byte("privkey:1"), "profile-ab12": binary, "_current/user@1": []byte("x"), "empty": {}} {
		if err := s.WriteState(id, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WriteState("gone", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteState("gone", nil); err != nil {
		t.Fatal(err)
	}
	again, err := open("ingress-0")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[ipn.StateKey]string{"_machinekey": "privkey:1", "profile-ab12": string(binary), "_current/user@1": "x", "empty": ""} {
		if got, err := again.ReadState(id); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", id, got, err)
		}
	}
	if _, err := again.ReadState("gone"); !errors.Is(err, ipn.ErrStateNotExist) {
		t.Errorf("a key that was taken away: %v", err)
	}
	admin, err := kubernetes.NewForConfig(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := admin.CoreV1().Secrets("proxies").Get(ctx, "ingress-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Labels["mine"] != "true" || len(secret.Data) != 4 {
		t.Errorf("the Secret has labels %v and %d keys", secret.Labels, len(secret.Data))
	}
	for _, name := range []string{"ingress-1", "nobodys"} {
		if _, err := open(name); err == nil || !strings.Contains(err.Error(), "create the Secret, empty, and let this account get and patch it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// flaky are Secrets whose API server answers with the errors of a list, one after the other.
type flaky struct {
	errs    []error
	patches []string
}

func (f *flaky) next() error {
	if len(f.errs) == 0 {
		return nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return err
}

func (f *flaky) Get(context.Context, string, metav1.GetOptions) (*corev1.Secret, error) {
	return &corev1.Secret{}, f.next()
}

func (f *flaky) Patch(_ context.Context, _ string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*corev1.Secret, error) {
	f.patches = append(f.patches, string(data))
	return &corev1.Secret{}, f.next()
}

func TestAnAPIServerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "s", nil)
		f := &flaky{errs: []error{away, away}}
		began := time.Now()
		s, err := statestore.Open(t.Context(), f, "s", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != 2*time.Second {
			t.Errorf("opened after %v", waited)
		}
		f.errs = []error{away, nil}
		if err := s.WriteState("a", []byte("1")); err != nil || len(f.patches) != 2 {
			t.Errorf("a write that succeeds at the second attempt: %v after %d", err, len(f.patches))
		}
		f.errs, f.patches = []error{forbidden}, nil
		if err := s.WriteState("b", []byte("2")); !apierrors.IsForbidden(err) || len(f.patches) != 1 {
			t.Errorf("a write that is forbidden: %v after %d", err, len(f.patches))
		}
		if got, err := s.ReadState("b"); err != nil || string(got) != "2" {
			t.Errorf("what could not be saved reads as %q, %v", got, err)
		}
		f.patches = nil
		if err := s.WriteState("c", []byte("3")); err != nil || len(f.patches) != 1 || f.patches[0] != `{"data":{"b":"Mg==","c":"Mw=="}}` {
			t.Errorf("the next change: %v with %q", err, f.patches)
		}
		f.patches = nil
		if err := s.WriteState("c", []byte("3")); err != nil || len(f.patches) != 0 {
			t.Errorf("no change at all: %v with %q", err, f.patches)
		}
		f.errs = make([]error, 100)
		for i := range f.errs {
			f.errs[i] = away
		}
		if err := s.WriteState("d", []byte("4")); !errors.Is(err, away) {
			t.Errorf("an API server that stays away: %v", err)
		}
		if _, err := statestore.Open(t.Context(), &flaky{errs: f.errs}, "s", slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an API server that stays away when it begins: %v", err)
		}
	})
}
