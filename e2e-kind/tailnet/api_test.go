package tailnet_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tsapi "tailscale.com/client/tailscale/v2"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

// wantError checks that err is an answer of the API with that status and text.
func wantError(t *testing.T, err error, status int, text string) {
	t.Helper()
	apiErr, ok := errors.AsType[tsapi.APIError](err)
	if !ok || apiErr.Status != status || !strings.Contains(apiErr.Message, text) {
		t.Errorf("error %v, want status %d with %q", err, status, text)
	}
}

func TestKeysAPI(t *testing.T) {
	tn := start(t, tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin}})
	keys := adminAPI(t, tn).Keys()
	req := keyRequest([]string{"tag:tailgate-spoke"})
	req.Capabilities.Devices.Create.Ephemeral = true
	req.ExpirySeconds = 600
	req.Description = "cluster1"
	made, err := keys.CreateAuthKey(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(made.Key, "tskey-auth-") || made.Expires.Sub(made.Created) != 10*time.Minute {
		t.Errorf("made %+v", made)
	}
	got, err := keys.Get(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := *made
	want.Key = "" // told once
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("key differs (-want +got):\n%s", diff)
	}
	list, err := keys.List(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]tsapi.Key{{ID: made.ID}}, list); diff != "" {
		t.Errorf("list differs (-want +got):\n%s", diff)
	}
	if err := keys.Delete(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if got, err = keys.Get(t.Context(), made.ID); err != nil || !got.Invalid || got.Revoked.IsZero() {
		t.Errorf("deleted key = %+v, %v; want it invalid and revoked", got, err)
	}
	wantError(t, keys.Delete(t.Context(), made.ID), http.StatusNotFound, "not found")
	_, err = keys.Get(t.Context(), "kNobodyCNTRL")
	wantError(t, err, http.StatusNotFound, "not found")
	_, err = keys.CreateAuthKey(t.Context(), keyRequest(nil))
	wantError(t, err, http.StatusBadRequest, "tailnet-owned auth key must have tags set")
	_, err = keys.CreateAuthKey(t.Context(), keyRequest([]string{"tag:nobody"}))
	wantError(t, err, http.StatusBadRequest, "requested tags [tag:nobody] are invalid or not permitted")
}

// TestKeysOfOwnedTags: a client makes keys of what its tags own, directly.
func TestKeysOfOwnedTags(t *testing.T) {
	tn := start(t, tailnet.Options{
		Policy:       `{"tagOwners": {"tag:tailgate-hub": [], "tag:tailgate-spoke": ["tag:tailgate-hub"], "tag:other": ["tag:tailgate-spoke"]}}`,
		OAuthClients: []tailnet.OAuthClient{{ID: "hub", Secret: "secret", Tags: []string{"tag:tailgate-hub"}}},
	})
	keys := api(t, tn, &tsapi.OAuth{ClientID: "hub", ClientSecret: "secret"}).Keys()
	for _, tags := range [][]string{{"tag:tailgate-spoke"}, {"tag:tailgate-hub", "tag:tailgate-spoke"}} {
		if _, err := keys.CreateAuthKey(t.Context(), keyRequest(tags)); err != nil {
			t.Errorf("%v: %v", tags, err)
		}
	}
	_, err := keys.CreateAuthKey(t.Context(), keyRequest([]string{"tag:tailgate-spoke", "tag:other"}))
	wantError(t, err, http.StatusBadRequest, "requested tags [tag:other] are invalid or not permitted")
}

func TestVIPServicesAPI(t *testing.T) {
	tn := start(t, tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin}})
	services := adminAPI(t, tn).VIPServices()
	put := func(svc tsapi.VIPService) error { return services.CreateOrUpdate(t.Context(), svc) }
	get := func(name string) tsapi.VIPService {
		t.Helper()
		svc, err := services.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return *svc
	}
	web := tsapi.VIPService{
		Name:        "svc:web",
		Comment:     "a “comment”",
		Annotations: map[string]string{"tailscale.com/owner-references": `{"ownerRefs":[{"operatorID":"n1"}]}`, "empty": ""},
		Ports:       []string{"tcp:80", "udp:53", "tcp:8000-8010"},
		Tags:        []string{"tag:tailgate-proxy"},
	}
	if err := put(web); err != nil {
		t.Fatal(err)
	}
	web.Addrs = []string{"100.100.0.1", "fd7a:115c:a1e0:5e7::1"}
	if diff := cmp.Diff(web, get("svc:web")); diff != "" {
		t.Errorf("service differs (-want +got):\n%s", diff)
	}
	if err := put(tsapi.VIPService{Name: "svc:db", Addrs: []string{"100.100.0.7"}}); err != nil {
		t.Fatal(err)
	}
	db := tsapi.VIPService{Name: "svc:db", Addrs: []string{"100.100.0.7", "fd7a:115c:a1e0:5e7::2"}}
	list, err := services.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]tsapi.VIPService{db, web}, list); diff != "" {
		t.Errorf("list differs (-want +got):\n%s", diff)
	}
	web.Comment = "updated"
	if err := put(web); err != nil {
		t.Errorf("update with addrs sent back: %v", err)
	}
	t.Run("refusals", func(t *testing.T) {
		tests := []struct {
			name   string
			svc    tsapi.VIPService
			status int
			want   string
		}{
			{"update-without-addrs", tsapi.VIPService{Name: "svc:web"}, 400, "an update must set its addrs"},
			{"name-without-prefix", tsapi.VIPService{Name: "web"}, 400, "is invalid"},
			{"name-not-a-label", tsapi.VIPService{Name: "svc:a.b"}, 400, "is invalid"},
			{"port-without-protocol", tsapi.VIPService{Name: "svc:x", Ports: []string{"80"}}, 400, "tcp:N"},
			{"port-out-of-range", tsapi.VIPService{Name: "svc:x", Ports: []string{"tcp:70000"}}, 400, "1 to 65535"},
			{"unknown-tag", tsapi.VIPService{Name: "svc:x", Tags: []string{"tag:nobody"}}, 400, "does not exist"},
			{"address-of-another-service", tsapi.VIPService{Name: "svc:x", Addrs: []string{"100.100.0.1"}}, 409, "in use by service svc:web"},
			{"address-outside-tailscale", tsapi.VIPService{Name: "svc:x", Addrs: []string{"10.0.0.1"}}, 400, "can't be used"},
			{"chosen-ipv6", tsapi.VIPService{Name: "svc:x", Addrs: []string{"fd7a:115c:a1e0::99"}}, 400, "can't be chosen"},
			{"magic-dns-address", tsapi.VIPService{Name: "svc:x", Addrs: []string{"100.100.100.100"}}, 400, "can't be used"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) { wantError(t, put(tt.svc), tt.status, tt.want) })
		}
	})
	if err := services.Delete(t.Context(), "svc:web"); err != nil {
		t.Fatal(err)
	}
	_, err = services.Get(t.Context(), "svc:web")
	wantError(t, err, http.StatusNotFound, `service "svc:web" not found`)
	if err := put(tsapi.VIPService{Name: "svc:next"}); err != nil {
		t.Fatal(err)
	}
	if got := get("svc:next").Addrs[0]; got != "100.100.0.1" {
		t.Errorf("next service got %s, want the lowest free address", got)
	}
}

func TestPolicyFileAPI(t *testing.T) {
	tn := start(t, tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin}})
	policy := adminAPI(t, tn).PolicyFile()
	before, err := policy.Raw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const text = "// kept byte for byte\n{\n  \"tagOwners\": {\"tag:other\": [],},\n}\n"
	if err := policy.Set(t.Context(), text, before.ETag); err != nil {
		t.Fatal(err)
	}
	after, err := policy.Raw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.HuJSON != text || after.ETag == before.ETag {
		t.Errorf("policy = %+v", after)
	}
	wantError(t, policy.Set(t.Context(), "{}", before.ETag), http.StatusPreconditionFailed, "precondition failed")
	wantError(t, policy.Set(t.Context(), "{", after.ETag), http.StatusBadRequest, "not HuJSON")
	acl, err := policy.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := acl.TagOwners["tag:other"]; !ok || acl.ETag != after.ETag {
		t.Errorf("typed policy = %+v", acl)
	}
	if err := policy.Validate(t.Context(), text); err != nil {
		t.Errorf("good policy: %v", err)
	}
	err = policy.Validate(t.Context(), `{"autoApprovers": {"services": {"svc:web": ["tag:nobody"]}}}`)
	if err == nil || !strings.Contains(err.Error(), `"tag:nobody" is not in tagOwners`) {
		t.Errorf("bad policy: %v", err)
	}
	if _, err := tn.MintKey(tailnet.KeyOptions{Tags: []string{"tag:tailgate-hub"}}); err == nil {
		t.Error("key for a tag that the policy no longer has")
	}
}

func TestDevicesAPI(t *testing.T) {
	tn := start(t, tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin}})
	key := mint(t, tn, tailnet.KeyOptions{Tags: []string{"tag:other"}, Reusable: true})
	a := join(t, tn, tailnet.NodeOptions{Hostname: "aa", AuthKey: key})
	b := join(t, tn, tailnet.NodeOptions{Hostname: "bb", AuthKey: key})
	devices := adminAPI(t, tn).Devices()
	id := string(status(t, b).Self.ID)
	if err := devices.SetTags(t.Context(), id, []string{"tag:tailgate-hub"}); err != nil {
		t.Fatal(err)
	}
	if err := devices.SetName(t.Context(), id, "renamed"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		for _, p := range status(t, a).Peer {
			if p.DNSName == "renamed.tailgate.ts.net." && p.Tags.At(0) == "tag:tailgate-hub" {
				return ""
			}
		}
		return "peer to see name and tags"
	})
	list, err := devices.List(t.Context(), tsapi.WithFields(tsapi.IncludeFieldsAll), tsapi.WithFilter("tags", []string{"tag:tailgate-hub"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].NodeID != id || list[0].Name != "renamed.tailgate.ts.net" || list[0].Addresses[0] != status(t, b).TailscaleIPs[0].String() {
		t.Errorf("list = %+v, want the renamed device", list)
	}
	wantError(t, devices.SetTags(t.Context(), id, []string{"tag:nobody"}), http.StatusBadRequest, "tag:nobody")
	wantError(t, devices.SetName(t.Context(), id, "aa"), http.StatusConflict, "taken")
	wantError(t, devices.SetName(t.Context(), "n999999CNTRL", "cc"), http.StatusNotFound, "not found")
	if err := devices.SetSubnetRoutes(t.Context(), id, []string{"10.9.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	routes, err := devices.SubnetRoutes(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.9.0.0/16"}, routes.Enabled); diff != "" {
		t.Errorf("enabled routes differ (-want +got):\n%s", diff)
	}
	if err := devices.SetAuthorized(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if len(status(t, a).Peer) != 0 {
			return "unauthorized peer to vanish"
		}
		return ""
	})
}

func TestOAuth(t *testing.T) {
	var ahead atomic.Int64
	tn := start(t, tailnet.Options{
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		OAuthClients: []tailnet.OAuthClient{
			admin,
			{ID: "reader", Secret: "reader/secret+%", Scopes: []string{"services:read", "devices:core"}},
			{ID: "federated", Issuer: "https://issuer", Subject: "system:serviceaccount:tailgate:hub"},
		},
	})
	reader := api(t, tn, &tsapi.OAuth{ClientID: "reader", ClientSecret: "reader/secret+%"})
	t.Run("scope-for-reading-only-reads", func(t *testing.T) {
		if _, err := reader.VIPServices().List(t.Context()); err != nil {
			t.Error(err)
		}
		wantError(t, reader.VIPServices().CreateOrUpdate(t.Context(), tsapi.VIPService{Name: "svc:x"}), http.StatusForbidden, "scope services needed")
		_, err := reader.Keys().List(t.Context(), true)
		wantError(t, err, http.StatusForbidden, "scope auth_keys needed")
	})
	t.Run("scope-that-the-client-lacks", func(t *testing.T) {
		c := api(t, tn, &tsapi.OAuth{ClientID: "reader", ClientSecret: "reader/secret+%", Scopes: []string{"auth_keys"}})
		if _, err := c.Devices().List(t.Context()); err == nil || !strings.Contains(err.Error(), "invalid_scope") {
			t.Errorf("error %v, want invalid_scope", err)
		}
	})
	t.Run("wrong-secret", func(t *testing.T) {
		c := api(t, tn, &tsapi.OAuth{ClientID: "reader", ClientSecret: "wrong"})
		if _, err := c.Devices().List(t.Context()); err == nil || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("error %v, want invalid_client", err)
		}
	})
	t.Run("no-token", func(t *testing.T) {
		_, err := api(t, tn, nil).Devices().List(t.Context())
		wantError(t, err, http.StatusUnauthorized, "API token invalid")
	})
	t.Run("federated-identity", func(t *testing.T) {
		c := api(t, tn, &tsapi.IdentityFederation{ClientID: "federated", IDTokenFunc: func() (string, error) {
			return jwt("system:serviceaccount:tailgate:hub", `"api.tailscale.com/federated"`), nil
		}})
		if _, err := c.Devices().List(t.Context()); err != nil {
			t.Error(err)
		}
		c = api(t, tn, &tsapi.IdentityFederation{ClientID: "federated", IDTokenFunc: func() (string, error) {
			return jwt("system:serviceaccount:tailgate:other", `["api.tailscale.com/federated"]`), nil
		}})
		if _, err := c.Devices().List(t.Context()); err == nil || !strings.Contains(err.Error(), "another issuer or subject") {
			t.Errorf("error %v, want a refusal", err)
		}
		c = api(t, tn, &tsapi.IdentityFederation{ClientID: "federated", IDTokenFunc: func() (string, error) {
			return jwt("system:serviceaccount:tailgate:hub", `"https://kubernetes.default.svc"`), nil
		}})
		if _, err := c.Devices().List(t.Context()); err == nil || !strings.Contains(err.Error(), "another audience") {
			t.Errorf("error %v, want a refusal", err)
		}
	})
	t.Run("client-tells-of-itself", func(t *testing.T) {
		end := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
		if err := tn.PutOAuthClient(tailnet.OAuthClient{ID: "brief", Secret: "s", Scopes: []string{"services:read"}, Expires: end}); err != nil {
			t.Fatal(err)
		}
		brief := api(t, tn, &tsapi.OAuth{ClientID: "brief", ClientSecret: "s"})
		got, err := brief.Keys().Get(t.Context(), "brief")
		if err != nil {
			t.Fatal(err)
		}
		want := &tsapi.Key{ID: "brief", KeyType: "client", Expires: end, Scopes: []string{"services:read"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("client (-want +got):\n%s", diff)
		}
		_, err = brief.Keys().Get(t.Context(), "reader")
		wantError(t, err, http.StatusForbidden, "scope auth_keys needed")
	})
	t.Run("revoked", func(t *testing.T) {
		if err := tn.PutOAuthClient(tailnet.OAuthClient{ID: "gone", Secret: "s"}); err != nil {
			t.Fatal(err)
		}
		gone := api(t, tn, &tsapi.OAuth{ClientID: "gone", ClientSecret: "s"})
		if _, err := gone.Devices().List(t.Context()); err != nil {
			t.Fatal(err)
		}
		tn.RevokeOAuthClient("gone")
		_, err := gone.Devices().List(t.Context())
		wantError(t, err, http.StatusUnauthorized, "API token invalid")
		again := api(t, tn, &tsapi.OAuth{ClientID: "gone", ClientSecret: "s"})
		if _, err := again.Devices().List(t.Context()); err == nil || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("error %v, want invalid_client", err)
		}
	})
	t.Run("requests-are-counted", func(t *testing.T) {
		const devices = "GET /api/v2/tailnet/{tailnet}/devices"
		before := tn.Requests()[devices]
		tn.RejectNext(1, http.StatusServiceUnavailable, 0, nil)
		for range 2 {
			_, _ = reader.Devices().List(t.Context()) // the first is rejected
		}
		if n := tn.Requests()[devices] - before; n != 2 {
			t.Errorf("%d requests counted, want 2: %v", n, tn.Requests())
		}
	})
	t.Run("token-expires", func(t *testing.T) {
		ahead.Store(int64(time.Hour))
		_, err := reader.Devices().List(t.Context())
		wantError(t, err, http.StatusUnauthorized, "API token invalid")
	})
}

// jwt makes an identity token; audience is JSON.
func jwt(subject, audience string) string {
	claims := fmt.Sprintf(`{"iss":"https://issuer","sub":%q,"aud":%s,"exp":%d}`, subject, audience, time.Now().Add(time.Hour).Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + ".none"
}

func TestRejectNext(t *testing.T) {
	tn := start(t, tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin}})
	var retryAfter atomic.Value
	client := adminAPI(t, tn)
	client.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		res, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			retryAfter.Store(res.Header.Get("Retry-After"))
		}
		return res, err
	})}
	tn.RejectNext(2, http.StatusTooManyRequests, 1500*time.Millisecond, regexp.MustCompile("/vip-services"))
	if _, err := client.Devices().List(t.Context()); err != nil {
		t.Errorf("another path: %v", err)
	}
	for range 2 {
		_, err := client.VIPServices().List(t.Context())
		wantError(t, err, http.StatusTooManyRequests, "injected")
		if got := retryAfter.Load(); got != "2" {
			t.Errorf("Retry-After = %q, want whole seconds, rounded up", got)
		}
	}
	if _, err := client.VIPServices().List(t.Context()); err != nil {
		t.Errorf("after it: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
