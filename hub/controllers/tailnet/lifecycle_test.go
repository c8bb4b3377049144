package tailnet_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	fake "github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/hub/controllers/tailnet"
)

// testTags changes the tags of a tailnet that has a VIP.
func (f *fixture) testTags(t *testing.T) {
	tn := startTailnet(t)
	r := f.run(t)
	f.secret(t, "tags-oauth", clientSecret)
	f.createAt(t, tn.URL(), "tags", "tags-oauth")
	f.await(t, "tags", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	api, err := r.tailnets.Get("tags")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.EnsureVIP(t.Context(), vip("tagged")); err != nil {
		t.Fatal(err)
	}
	set := func(tags ...v1alpha1.Tag) {
		t.Helper()
		f.eventually(t, func() bool {
			o := f.get(t, "tags")
			o.Spec.Tags = tags
			return f.admin.Update(t.Context(), o) == nil
		}, "the tags to be written")
	}
	set("tag:other", "tag:tailgate-proxy")
	f.eventually(t, func() bool {
		for _, s := range tn.Services() {
			if s.Name == "svc:tagged" {
				return slices.Equal(s.Tags, []string{"tag:other", "tag:tailgate-proxy"})
			}
		}
		return false
	}, "the VIP to have the new tags")
	set("tag:not-in-the-policy-file")
	o := f.await(t, "tags", condition(v1alpha1.ConditionValidated, metav1.ConditionFalse, v1alpha1.ReasonForbidden))
	if m := ready(o).Message; !strings.Contains(m, "tag:not-in-the-policy-file") || !strings.Contains(m, "define the tags in the policy file") {
		t.Errorf("message %q does not say what to do", m)
	}
	set("tag:other")
	f.await(t, "tags", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	f.clear(t, r, "tags", "tagged")
}

// clear deletes a VIP and then its tailnet.
func (f *fixture) clear(t *testing.T, r run, name, service string) {
	t.Helper()
	api, err := r.tailnets.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.DeleteVIP(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	f.remove(t, f.get(t, name))
}

// testInUse deletes a tailnet, and its Secret with it, while a VIP is there.
func (f *fixture) testInUse(t *testing.T) {
	tn := startTailnet(t)
	r := f.run(t)
	f.secret(t, "used-oauth", clientSecret)
	f.createAt(t, tn.URL(), "used", "used-oauth")
	f.await(t, "used", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	api, err := r.tailnets.Get("used")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.EnsureVIP(t.Context(), vip("left-over")); err != nil {
		t.Fatal(err)
	}
	if err := f.admin.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tailnet.DefaultNamespace, Name: "used-oauth"}}); err != nil {
		t.Fatal(err)
	}
	f.await(t, "used", condition(v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound))
	f.secret(t, "used-oauth", clientSecret)
	f.await(t, "used", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	if err := f.admin.Delete(t.Context(), f.get(t, "used")); err != nil {
		t.Fatal(err)
	}
	o := f.await(t, "used", condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInUse))
	if m := ready(o).Message; !strings.Contains(m, "1 VIPs of this federation: svc:left-over.") || ptr.Deref(o.Status.VIPCount, 0) != 1 {
		t.Errorf("message %q and count %v do not tell what is left", m, ptr.Deref(o.Status.VIPCount, 0))
	}
	f.awaitEvent(t, "used", corev1.EventTypeWarning, v1alpha1.ReasonInUse)
	if err := f.admin.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tailnet.DefaultNamespace, Name: "used-oauth"}}); err != nil {
		t.Fatal(err)
	}
	r.reconcile(t, "used")
	if api, err = r.tailnets.Get("used"); err != nil { // the one who deletes VIPs must still be able to
		t.Fatal(err)
	}
	if again := f.get(t, "used"); again.ResourceVersion != o.ResourceVersion {
		t.Errorf("status was written though nothing changed: %+v", again.Status)
	}
	if err := api.DeleteVIP(t.Context(), "left-over"); err != nil {
		t.Fatal(err)
	}
	r.reconcile(t, "used")
	f.awaitGone(t, "used")
}

// testLost revokes the credentials of a tailnet that has a VIP, and deletes it.
func (f *fixture) testLost(t *testing.T) {
	tn := startTailnet(t)
	f.secret(t, "lost-oauth", clientSecret)
	f.createAt(t, tn.URL(), "lost", "lost-oauth")
	first := f.run(t)
	f.await(t, "lost", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	api, err := first.tailnets.Get("lost")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.EnsureVIP(t.Context(), vip("left-over")); err != nil {
		t.Fatal(err)
	}
	first.ahead.Add(int64(10 * time.Minute))
	f.eventually(t, func() bool {
		first.ahead.Add(int64(2 * time.Minute))
		first.reconcile(t, "lost")
		return ptr.Deref(f.get(t, "lost").Status.VIPCount, 0) == 1
	}, "the VIP to be counted")
	tn.RevokeOAuthClient(clientID)
	if err := f.admin.Delete(t.Context(), f.get(t, "lost")); err != nil {
		t.Fatal(err)
	}
	o := f.await(t, "lost", condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInUse))
	if m := ready(o).Message; !strings.Contains(m, "had 1 VIPs") || !strings.Contains(m, "remove the finalizer "+tailnet.Finalizer) {
		t.Errorf("message %q does not say what is left and what to do", m)
	}
	if err := tn.PutOAuthClient(fake.OAuthClient{ID: clientID, Secret: clientSecret, Tags: fake.DefaultTags()}); err != nil {
		t.Fatal(err)
	}
	if err := api.DeleteVIP(t.Context(), "left-over"); err != nil {
		t.Fatal(err)
	}
	first.reconcile(t, "lost")
	f.awaitGone(t, "lost")
}

// testTwins deletes one of two objects that give access to the same tailnet.
func (f *fixture) testTwins(t *testing.T) {
	tn := startTailnet(t)
	f.secret(t, "twin-oauth", clientSecret)
	r := f.run(t)
	f.createAt(t, tn.URL(), "twin-a", "twin-oauth")
	f.createAt(t, tn.URL(), "twin-b", "twin-oauth")
	for _, name := range []string{"twin-a", "twin-b"} {
		f.await(t, name, condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	}
	api, err := r.tailnets.Get("twin-b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.EnsureVIP(t.Context(), vip("shared")); err != nil {
		t.Fatal(err)
	}
	f.remove(t, f.get(t, "twin-a"))
	f.clear(t, r, "twin-b", "shared")
}

// testIdentity has the hub's own API server make the tokens of a federated identity.
func (f *fixture) testIdentity(t *testing.T) {
	const issuer, identity, audience = "https://kubernetes.default.svc", "kFederatedCNTRL", "api.tailscale.com/kFederatedCNTRL"
	tn := startTailnet(t)
	err := tn.PutOAuthClient(fake.OAuthClient{
		ID: identity, Issuer: issuer, Subject: "system:serviceaccount:tailgate-system:tailgate-hub", Audience: audience, Tags: fake.DefaultTags(),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := f.run(t)
	create := func(name, audience string) *v1alpha1.TailscaleTailnet {
		t.Helper()
		o := &v1alpha1.TailscaleTailnet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TailscaleTailnetSpec{
			WorkloadIdentity: &v1alpha1.WorkloadIdentity{ClientID: identity, Audience: audience}, APIURL: tn.URL(), Tags: []v1alpha1.Tag{"tag:tailgate-proxy"},
		}}
		if err := f.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	create("identity", audience)
	o := f.await(t, "identity", condition(v1alpha1.ConditionAuthenticated, metav1.ConditionUnknown, v1alpha1.ReasonIdentityTokenFailed))
	if m := ready(o).Message; !strings.Contains(m, "there is no ServiceAccount tailgate-system/tailgate-hub") {
		t.Errorf("message %q does not name the ServiceAccount", m)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: tailnet.DefaultNamespace, Name: tailnet.DefaultServiceAccount}}
	if err := f.admin.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	r.ahead.Add(int64(time.Minute))
	r.reconcile(t, "identity")
	o = f.await(t, "identity", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	if c := o.Status.Credentials; c == nil || *c != (v1alpha1.TailnetCredentials{Type: v1alpha1.CredentialsWorkloadIdentity, ClientID: identity}) {
		t.Errorf("credentials in the status are %+v", c)
	}
	if n := f.keys(t); n != 0 {
		t.Errorf("validation minted %d auth keys", n)
	}
	t.Run("audience-of-somebody-else", func(t *testing.T) {
		o := create("strange-audience", "https://example.com")
		got := f.await(t, o.Name, condition(v1alpha1.ConditionAuthenticated, metav1.ConditionFalse, v1alpha1.ReasonUnauthorized))
		if m := ready(got).Message; !strings.Contains(m, "another audience") || !strings.Contains(m, "spec.workloadIdentity") {
			t.Errorf("message %q does not say what to compare", m)
		}
		f.remove(t, o)
	})
	t.Run("audience-of-the-api-server", func(t *testing.T) { // a token for it would open the cluster to whoever apiURL is
		before := tn.Requests()["POST /api/v2/oauth/token-exchange"]
		o := create("own-audience", issuer)
		got := f.await(t, o.Name, condition(v1alpha1.ConditionAuthenticated, metav1.ConditionUnknown, v1alpha1.ReasonIdentityTokenFailed))
		if m := ready(got).Message; !strings.Contains(m, "set workloadIdentity.audience") {
			t.Errorf("message %q does not say what to do", m)
		}
		if n := tn.Requests()["POST /api/v2/oauth/token-exchange"] - before; n != 0 {
			t.Errorf("%d tokens that the API server takes were sent away", n)
		}
		f.remove(t, o)
	})
	f.remove(t, o)
}

// testExpiry reads when a client expires.
func (f *fixture) testExpiry(t *testing.T) {
	tn := startTailnet(t)
	end := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	if err := tn.PutOAuthClient(fake.OAuthClient{ID: clientID, Secret: clientSecret, Expires: end}); err != nil {
		t.Fatal(err)
	}
	r := f.run(t)
	f.secret(t, "brief-oauth", clientSecret)
	f.createAt(t, tn.URL(), "brief", "brief-oauth")
	o := f.await(t, "brief", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	if c := o.Status.Credentials; c == nil || c.ExpiresAt == nil || !c.ExpiresAt.Time.Equal(end) {
		t.Errorf("credentials in the status are %+v, want the expiry %v", c, end)
	}
	r.ahead.Add(int64(2 * time.Minute))
	r.reconcile(t, "brief")
	if again := f.get(t, "brief"); again.ResourceVersion != o.ResourceVersion {
		t.Errorf("status was written though nothing changed: %+v", again.Status)
	}
	f.remove(t, o)
}

// rights give the ServiceAccount of the hub the roles that are generated for it.
const rights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tailgate-hub}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tailgate-hub}
subjects: [{kind: ServiceAccount, namespace: tailgate-system, name: tailgate-hub}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tailgate-hub, namespace: tailgate-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tailgate-hub}
subjects: [{kind: ServiceAccount, namespace: tailgate-system, name: tailgate-hub}]
---
apiVersion: v1
kind: Secret
metadata: {name: elsewhere-oauth, namespace: default}
stringData: {client_id: some, client_secret: other}
`

// testRights runs the hub with no more rights than it is given, and finds that they are enough.
func (f *fixture) testRights(t *testing.T) {
	const identity = "kRightsCNTRL"
	if err := f.api.ApplyFiles(t.Context(), "../../../deploy/rbac/hub-role.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := f.api.ApplyYAML(t.Context(), []byte(rights)); err != nil {
		t.Fatal(err)
	}
	f.as = "system:serviceaccount:tailgate-system:tailgate-hub"
	defer func() { f.as = "" }()
	tn := startTailnet(t)
	if err := tn.PutOAuthClient(fake.OAuthClient{ID: identity, Subject: f.as, Audience: "tailscale"}); err != nil {
		t.Fatal(err)
	}
	f.secret(t, "rights-oauth", "tskey-client-wrong")
	f.run(t, byWatch)
	o := f.createAt(t, tn.URL(), "rights", "rights-oauth")
	f.await(t, "rights", condition(v1alpha1.ConditionAuthenticated, metav1.ConditionFalse, v1alpha1.ReasonUnauthorized))
	f.secret(t, "rights-oauth", clientSecret)
	f.await(t, "rights", condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady))
	f.awaitEvent(t, "rights", corev1.EventTypeNormal, v1alpha1.ReasonReady)
	f.remove(t, o)
	for name, spec := range map[string]v1alpha1.TailscaleTailnetSpec{
		v1alpha1.ReasonReady:           {WorkloadIdentity: &v1alpha1.WorkloadIdentity{ClientID: identity, Audience: "tailscale"}},
		v1alpha1.ReasonSecretForbidden: {OAuthSecretName: "elsewhere-oauth", OAuthSecretNamespace: metav1.NamespaceDefault},
	} {
		spec.APIURL = tn.URL()
		o := &v1alpha1.TailscaleTailnet{ObjectMeta: metav1.ObjectMeta{Name: "rights-" + strings.ToLower(name)}, Spec: spec}
		if err := f.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		status := metav1.ConditionFalse
		if name == v1alpha1.ReasonReady {
			status = metav1.ConditionTrue
		}
		f.await(t, o.Name, condition(v1alpha1.ConditionReady, status, name))
		f.remove(t, o)
	}
}
