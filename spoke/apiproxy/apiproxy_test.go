package apiproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tailgate-project/tailgate/spoke/apiproxy"
)

const hubTag = "tag:tailgate-hub"

// proxy starts a proxy in front of the API server, for peers with the tags.
func proxy(t *testing.T, api http.Handler, life time.Duration, tags func() ([]string, error)) *httptest.Server {
	t.Helper()
	upstream := httptest.NewServer(api)
	t.Cleanup(upstream.Close)
	h, err := apiproxy.New(apiproxy.Options{
		API: &rest.Config{Host: upstream.URL, BearerToken: "the-spokes-own"}, HubTag: hubTag, StreamLife: life, Log: slog.New(slog.DiscardHandler),
		Tags: func(context.Context, string) ([]string, error) { return tags() },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func hub() ([]string, error) { return []string{"tag:other", hubTag}, nil }

func TestRequests(t *testing.T) {
	get := func(path string) *http.Request { return httptest.NewRequest(http.MethodGet, path, nil) }
	with := func(r *http.Request, key, value string) *http.Request {
		r.Header.Set(key, value)
		return r
	}
	const services = "/api/v1/services"
	for name, tc := range map[string]struct {
		request *http.Request
		tags    func() ([]string, error)
		want    int
	}{
		"version":                   {get("/version"), hub, 200},
		"discovery":                 {get("/apis/gateway.networking.k8s.io/v1"), hub, 200},
		"list":                      {get(services), hub, 200},
		"watch":                     {get(services + "?watch=true&resourceVersion=1"), hub, 200},
		"one-of-a-namespace":        {get("/api/v1/namespaces/prod/services/web"), hub, 200},
		"endpointslices":            {get("/apis/discovery.k8s.io/v1/endpointslices"), hub, 200},
		"gateways":                  {get("/apis/gateway.networking.k8s.io/v1/gateways"), hub, 200},
		"tailscalegateways":         {get("/apis/gateway.tailscale.com/v1alpha1/namespaces/a/tailscalegateways/b"), hub, 200},
		"tailscaleendpoints":        {get("/apis/gateway.tailscale.com/v1alpha1/tailscaleendpoints"), hub, 200},
		"serviceexports":            {get("/apis/multicluster.x-k8s.io/v1alpha1/serviceexports"), hub, 200},
		"clusterproperties":         {get("/apis/about.k8s.io/v1beta1/clusterproperties/cluster.clusterset.k8s.io"), hub, 200},
		"namespaces":                {get("/api/v1/namespaces"), hub, 200},
		"head":                      {httptest.NewRequest(http.MethodHead, services, nil), hub, 200},
		"peer-without-the-tag":      {get(services), func() ([]string, error) { return []string{"tag:other"}, nil }, 403},
		"unknown-peer":              {get(services), func() ([]string, error) { return nil, errors.New("not found") }, 403},
		"post":                      {httptest.NewRequest(http.MethodPost, services, nil), hub, 405},
		"delete":                    {httptest.NewRequest(http.MethodDelete, services, nil), hub, 405},
		"get-with-a-body":           {httptest.NewRequest(http.MethodGet, services, strings.NewReader("x")), hub, 405},
		"upgrade":                   {with(get(services), "Upgrade", "websocket"), hub, 405},
		"connection-upgrade":        {with(get(services), "Connection", "keep-alive, Upgrade"), hub, 405},
		"secrets":                   {get("/api/v1/secrets"), hub, 403},
		"secrets-of-a-namespace":    {get("/api/v1/namespaces/prod/secrets"), hub, 403},
		"pods":                      {get("/api/v1/pods"), hub, 403},
		"exec":                      {get("/api/v1/namespaces/prod/pods/a/exec"), hub, 403},
		"proxy-of-a-service":        {get("/api/v1/namespaces/prod/services/web/proxy"), hub, 403},
		"proxy-of-a-service-deeper": {get("/api/v1/namespaces/prod/services/web/proxy/admin"), hub, 403},
		"status-of-a-service":       {get("/api/v1/namespaces/prod/services/web/status"), hub, 403},
		"legacy-watch-path":         {get("/api/v1/watch/secrets"), hub, 403},
		"dots":                      {get("/api/v1/services/../secrets"), hub, 403},
		"a-namespace-of-dots":       {get("/api/v1/namespaces/../services"), hub, 403},
		"encoded-slash":             {get("/api/v1/namespaces/prod/services/web%2Fproxy"), hub, 403},
		"logs":                      {get("/logs/"), hub, 403},
		"metrics":                   {get("/metrics"), hub, 403},
	} {
		t.Run(name, func(t *testing.T) {
			reached := false
			srv := proxy(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }), 0, tc.tags)
			w := httptest.NewRecorder()
			srv.Config.Handler.ServeHTTP(w, tc.request)
			if w.Code != tc.want {
				t.Errorf("status %d, want %d: %s", w.Code, tc.want, w.Body)
			}
			if reached != (tc.want == 200) {
				t.Errorf("reached the API server: %v", reached)
			}
		})
	}
}

func TestIdentityIsTheSpokesOwn(t *testing.T) {
	var got http.Header
	srv := proxy(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }), 0, hub)
	r := httptest.NewRequest(http.MethodGet, "/version", nil)
	for key, value := range map[string]string{
		"Authorization": "Bearer stolen", "Cookie": "a=b", "Impersonate-User": "admin", "Impersonate-Group": "system:masters",
		"Impersonate-Extra-Scopes": "all", "X-Remote-User": "admin", "X-Remote-Group": "system:masters", "Accept-Encoding": "gzip",
	} {
		r.Header.Set(key, value)
	}
	srv.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	if a := got.Values("Authorization"); len(a) != 1 || a[0] != "Bearer the-spokes-own" {
		t.Errorf("Authorization %q", a)
	}
	for key := range got {
		if key == "Cookie" || strings.HasPrefix(key, "Impersonate-") || strings.HasPrefix(key, "X-Remote-") || strings.HasPrefix(key, "X-Forwarded-") {
			t.Errorf("%s was passed on: %q", key, got.Values(key))
		}
	}
	if got.Get("Accept-Encoding") != "gzip" {
		t.Error("compression is not passed on")
	}
}

func TestWatchEndsAfterItsLifeAndARevokedHubSeesNoMore(t *testing.T) {
	revoked := false
	srv := proxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.WriteString(w, "event\n"); err != nil {
			t.Error(err)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}), 50*time.Millisecond, func() ([]string, error) {
		if revoked {
			return nil, nil
		}
		return hub()
	})
	res, err := srv.Client().Get(srv.URL + "/api/v1/services?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body := bufio.NewReader(res.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "event\n" {
		t.Fatalf("the event came as %q, %v: it must be passed on at once", line, err)
	}
	if _, err := body.ReadString('\n'); err == nil {
		t.Fatal("the watch goes on after its life")
	}
	revoked = true
	again, err := srv.Client().Get(srv.URL + "/api/v1/services?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	if again.StatusCode != http.StatusForbidden {
		t.Errorf("status %d for a node that is no longer the hub, want 403", again.StatusCode)
	}
}

func TestServeSpeaksHTTP2WithoutTLS(t *testing.T) {
	srv := proxy(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 0, hub)
	ln := httptest.NewUnstartedServer(nil).Listener
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- apiproxy.Serve(ctx, ln, srv.Config.Handler, slog.New(slog.DiscardHandler)) }()
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &h2c}}
	res, err := client.Get("http://" + ln.Addr().String() + "/version")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 || res.StatusCode != 200 {
		t.Errorf("HTTP/%d %d", res.ProtoMajor, res.StatusCode)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}
