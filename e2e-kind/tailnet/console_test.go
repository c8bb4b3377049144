package tailnet_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

func TestConsole(t *testing.T) {
	tn := start(t, tailnet.Options{})
	call := func(method, path, body string, out any) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, tn.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	var key tailnet.KeyResponse
	if code := call("POST", "/console/keys", `{"tags":["tag:other"],"ephemeral":true,"expirySeconds":60}`, &key); code != http.StatusOK {
		t.Fatalf("POST /console/keys: %d", code)
	}
	join(t, tn, tailnet.NodeOptions{Hostname: "node", AuthKey: key.Key})
	var nodes []tailnet.NodeInfo
	if call("GET", "/console/nodes", "", &nodes); len(nodes) != 1 || !nodes[0].Ephemeral || nodes[0].Tags[0] != "tag:other" {
		t.Fatalf("nodes = %+v", nodes)
	}
	var services []tailnet.ServiceInfo
	if code := call("GET", "/console/services", "", &services); code != http.StatusOK || len(services) != 0 {
		t.Errorf("services = %+v, status %d", services, code)
	}
	if code := call("POST", "/console/nodes/"+nodes[0].ID+"/offline", `{"offline":true}`, &struct{}{}); code != http.StatusOK {
		t.Errorf("offline: %d", code)
	}
	if tn.Nodes()[0].Online {
		t.Error("node is online")
	}
	for _, tt := range []struct {
		name, path, body string
		want             int
	}{
		{"unknown-tag", "/console/keys", `{"tags":["tag:nobody"]}`, 400},
		{"expiry-out-of-range", "/console/keys", `{"expirySeconds":99999999999}`, 400},
		{"not-json", "/console/keys", `{`, 400},
		{"unknown-node", "/console/nodes/n9/offline", `{"offline":true}`, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var refusal struct{ Message string }
			if code := call("POST", tt.path, tt.body, &refusal); code != tt.want || refusal.Message == "" {
				t.Errorf("status %d, message %q; want %d and a message", code, refusal.Message, tt.want)
			}
		})
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	taken := start(t, tailnet.Options{})
	tests := []struct {
		name string
		opts tailnet.Options
		want string
	}{
		{"port-in-use", tailnet.Options{Addr: strings.TrimPrefix(taken.URL(), "http://")}, "address already in use"},
		{"derp-address-not-here", tailnet.Options{DERPIP: netip.MustParseAddr("192.0.2.1")}, "listen for DERP"},
		{"policy-not-hujson", tailnet.Options{Policy: "{"}, "not HuJSON"},
		{"policy-with-unknown-field", tailnet.Options{Policy: `{"tagOwner": {}}`}, `unknown field "tagOwner"`},
		{"vip-prefix-ipv6", tailnet.Options{VIPPrefix: netip.MustParsePrefix("fd00::/64")}, "IPv4 prefix"},
		{"client-without-secret", tailnet.Options{OAuthClients: []tailnet.OAuthClient{{ID: "x"}}}, "neither secret nor subject"},
		{"client-twice", tailnet.Options{OAuthClients: []tailnet.OAuthClient{admin, admin}}, "only once"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tailnet.New(tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestMintKeyRefusesLongLife(t *testing.T) {
	tn := start(t, tailnet.Options{})
	if _, err := tn.MintKey(tailnet.KeyOptions{Expiry: 91 * 24 * time.Hour}); err == nil {
		t.Error("key for 91 days")
	}
}
