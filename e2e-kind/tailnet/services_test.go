package tailnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	tsapi "tailscale.com/client/tailscale/v2"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

const webService = "svc:web"

// serve starts an HTTP server that says its name, and makes node offer it as
// services.
func serve(t *testing.T, node *tsnet.Server, name string, services ...string) {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(backend.Close)
	config := &ipn.ServeConfig{Services: map[tailcfg.ServiceName]*ipn.ServiceConfig{}}
	for _, s := range services {
		config.Services[tailcfg.ServiceName(s)] = &ipn.ServiceConfig{
			TCP: map[uint16]*ipn.TCPPortHandler{80: {TCPForward: backend.Listener.Addr().String()}},
		}
	}
	lc, err := node.LocalClient()
	if err != nil {
		t.Fatal(err)
	}
	if err := lc.SetServeConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	advertise(t, node, services...)
}

func advertise(t *testing.T, node *tsnet.Server, services ...string) {
	t.Helper()
	lc, err := node.LocalClient()
	if err != nil {
		t.Fatal(err)
	}
	_, err = lc.EditPrefs(t.Context(), &ipn.MaskedPrefs{
		AdvertiseServicesSet: true,
		Prefs:                ipn.Prefs{AdvertiseServices: services},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// get requests url from a node, on a new connection, until it is answered.
func get(t *testing.T, node *tsnet.Server, url string) (answer string) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			// A lost SYN is only sent again after a second.
			ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			return node.Dial(ctx, network, addr)
		},
	}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	eventually(t, func() string {
		res, err := client.Get(url)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err.Error()
		}
		answer = string(body)
		return ""
	})
	return answer
}

// federation is a tailnet with two hosts of a service, and a client.
type federation struct {
	tn             *tailnet.Tailnet
	api            *tsapi.Client
	hostA, hostB   *tsnet.Server
	idA, idB, addr string
	client         *tsnet.Server
}

func newFederation(t *testing.T, policy string) *federation {
	t.Helper()
	tn := start(t, tailnet.Options{
		OAuthClients:  []tailnet.OAuthClient{admin},
		Policy:        policy,
		FailoverAfter: 300 * time.Millisecond,
	})
	key := mint(t, tn, tailnet.KeyOptions{Tags: []string{"tag:tailgate-proxy"}, Reusable: true})
	f := &federation{tn: tn, api: adminAPI(t, tn)}
	f.hostA = join(t, tn, tailnet.NodeOptions{Hostname: "host-a", AuthKey: key})
	f.hostB = join(t, tn, tailnet.NodeOptions{Hostname: "host-b", AuthKey: key})
	f.client = join(t, tn, tailnet.NodeOptions{Hostname: "client", AuthKey: key, AcceptRoutes: true})
	f.idA, f.idB = string(status(t, f.hostA).Self.ID), string(status(t, f.hostB).Self.ID)
	err := f.api.VIPServices().CreateOrUpdate(t.Context(), tsapi.VIPService{Name: webService, Ports: []string{"tcp:80"}})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := f.api.VIPServices().Get(t.Context(), webService)
	if err != nil {
		t.Fatal(err)
	}
	f.addr = svc.Addrs[0]
	return f
}

func (f *federation) primary() string { return f.tn.Services()[0].Primary }

func (f *federation) awaitPrimary(t *testing.T, id string) {
	t.Helper()
	eventually(t, func() string {
		if got := f.primary(); got != id {
			return fmt.Sprintf("primary host %q, is %q", id, got)
		}
		return ""
	})
}

const autoApprove = `{
	// approved by tag
	"tagOwners": {"tag:tailgate-proxy": [], "tag:other": []},
	"autoApprovers": {"services": {"svc:web": ["tag:tailgate-proxy"]}},
}`

func TestServiceMovesBetweenHosts(t *testing.T) {
	f := newFederation(t, autoApprove)
	serve(t, f.hostA, "a", webService)
	f.awaitPrimary(t, f.idA)
	serve(t, f.hostB, "b", webService)
	eventually(t, func() string {
		if hosts := f.tn.Services()[0].Hosts; !slices.Equal(hosts, []string{f.idA, f.idB}) {
			return fmt.Sprintf("both hosts, are %v", hosts)
		}
		return ""
	})
	byAddr, byName := "http://"+f.addr+"/", "http://web."+tailnet.DefaultDomain+"/"
	for _, url := range []string{byAddr, byName} {
		if got := get(t, f.client, url); got != "a" {
			t.Errorf("%s: answered by %q, want the first host", url, got)
		}
	}

	begin := time.Now()
	advertise(t, f.hostA)
	f.awaitPrimary(t, f.idB)
	moved := time.Since(begin)
	eventually(t, func() string {
		if got := get(t, f.client, byAddr); got != "b" {
			return "answer by the other host, is by " + got
		}
		return ""
	})
	t.Logf("withdrawn by a: control moved after %v, b answers after %v", moved, time.Since(begin))

	// It doesn't fail back.
	advertise(t, f.hostA, webService)
	eventually(t, func() string {
		if len(f.tn.Services()[0].Hosts) != 2 {
			return "first host to come back"
		}
		return ""
	})
	if got := f.primary(); got != f.idB {
		t.Errorf("primary host is %q, want %q to stay", got, f.idB)
	}

	begin = time.Now()
	if err := f.tn.SetOffline(f.idB, true); err != nil {
		t.Fatal(err)
	}
	if got := f.primary(); got != f.idB {
		t.Errorf("primary host is %q at once, want %q to be given some time", got, f.idB)
	}
	f.awaitPrimary(t, f.idA)
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("moved %v after the host went offline, want FailoverAfter", took)
	}
	eventually(t, func() string {
		if got := get(t, f.client, byAddr); got != "a" {
			return "answer by the first host, is by " + got
		}
		return ""
	})

	if err := f.tn.SetOffline(f.idB, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if !f.tn.Nodes()[1].Online {
			return "host to come back online"
		}
		return ""
	})

	if err := f.api.VIPServices().Delete(t.Context(), webService); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		for _, p := range status(t, f.client).Peer {
			if p.PrimaryRoutes != nil && p.PrimaryRoutes.Len() > 0 {
				return "routes to vanish"
			}
		}
		return ""
	})
}

func TestServiceNeedsApproval(t *testing.T) {
	f := newFederation(t, "")
	serve(t, f.hostA, "a", webService)
	eventually(t, func() string {
		if !slices.Contains(f.tn.Nodes()[0].Services, webService) {
			return "offer of the host"
		}
		return ""
	})
	if hosts := f.tn.Services()[0].Hosts; len(hosts) != 0 {
		t.Errorf("hosts = %v before approval", hosts)
	}
	approve := func(approved bool) string {
		t.Helper()
		return f.post(t, "services/"+webService+"/device/"+f.idA+"/approved", fmt.Sprintf(`{"approved":%v}`, approved))
	}
	if got, want := approve(true), `{"approved":true,"autoApproved":false}`; got != want {
		t.Errorf("answer %s, want %s", got, want)
	}
	if got := get(t, f.client, "http://"+f.addr+"/"); got != "a" {
		t.Errorf("answered by %q", got)
	}
	approve(false)
	if hosts := f.tn.Services()[0].Hosts; len(hosts) != 0 {
		t.Errorf("hosts = %v after the approval was taken back", hosts)
	}
}

// post makes a call that the client library doesn't know.
func (f *federation) post(t *testing.T, path, body string) string {
	t.Helper()
	client := (&tsapi.OAuth{ClientID: admin.ID, ClientSecret: admin.Secret}).HTTPClient(http.DefaultClient, f.tn.URL())
	res, err := client.Post(f.tn.URL()+"/api/v2/tailnet/-/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s: %s", path, res.Status, answer)
	}
	return strings.TrimSpace(string(answer))
}

func TestManyServicesOnOneHost(t *testing.T) {
	const n = 200
	f := newFederation(t, `{"tagOwners": {"tag:tailgate-proxy": []},
		"autoApprovers": {"services": {"tag:tailgate-proxy": ["tag:tailgate-proxy"]}}}`)
	var names []string
	for i := range n {
		name := fmt.Sprintf("svc:s%d", i)
		names = append(names, name)
		err := f.api.VIPServices().CreateOrUpdate(t.Context(), tsapi.VIPService{
			Name: name, Tags: []string{"tag:tailgate-proxy"}, Ports: []string{"tcp:80"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	serve(t, f.hostA, "a", names...)
	last, err := f.api.VIPServices().Get(t.Context(), names[n-1])
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, f.client, "http://"+last.Addrs[0]+"/"); got != "a" {
		t.Errorf("answered by %q", got)
	}
	t.Logf("%d services reachable after %v", n, time.Since(begin))
}
