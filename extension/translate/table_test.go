package translate_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// FuzzSharing checks that routes which several paths share take each request where routes of its own would. A route of the
// user's that could lie among the paths, but is met by no request, keeps ours from being shared and must change nothing.
func FuzzSharing(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := federated(r)
		in := translate.Resources{Routes: []*routev3.RouteConfiguration{usersRoutes(r)}}
		policies := []translate.Policy{{Namespace: "default", Name: "p", Gateways: []string{"eg"}}}
		shared, _ := translate.Translate(in, policies, s)
		own, _ := translate.Translate(translate.Resources{Routes: []*routev3.RouteConfiguration{withBlockers(in.Routes[0])}}, policies, s)
		for _, vh := range own.Routes[0].GetVirtualHosts() {
			for _, route := range vh.GetRoutes() {
				if strings.HasPrefix(vh.GetName(), "default/") && route.GetRoute().GetClusterSpecifierPlugin() != "" {
					t.Fatalf("%s is shared among routes of the user's", route.GetName())
				}
			}
		}
		a, b := compiled(t, shared), compiled(t, own)
		for range 200 {
			req := someRequest(r, s)
			if got, want := decision(a, req), decision(b, req); got != want {
				t.Fatalf("%s %s%s hop %q: got %s, with routes of their own %s", req.Method, req.Host, req.URL, req.Header.Get(translate.HopHeader), got, want)
			}
		}
	})
}

// federated returns services whose names begin alike.
func federated(r *rand.Rand) translate.Snapshot {
	prefixes := []string{"/api/{service}/", "/api/{namespace}/{service}", "/{service}", "/cross-cluster/{service}/x"}
	s := translate.Snapshot{Cluster: "c1", Gateways: []translate.Gateway{{
		Namespace: "default", Name: "eg", Policy: "p", Listeners: []translate.Listener{{Name: "http", Port: 80}},
		Tailnets: []translate.Tailnet{{
			Egress:  translate.RouteTemplate{PathPrefix: prefixes[r.IntN(len(prefixes))], HostPattern: []string{"", "{service}.out.example"}[r.IntN(2)]},
			Ingress: translate.RouteTemplate{PathPrefix: []string{"", "/", "/api/", "/api/a"}[r.IntN(4)], HostPattern: []string{"", "{service}.in.example"}[r.IntN(2)]},
		}},
	}}}
	apps := []federation.AppProtocol{federation.AppUnknown, federation.AppH2C, federation.AppUnknown}
	for range r.IntN(8) {
		svc := translate.Service{ID: federation.Service([]string{"a", "b"}[r.IntN(2)], []string{"a", "ab", "ab-c", "b", "b-c1", "web", "api"}[r.IntN(7)]), App: apps[r.IntN(3)]}
		for _, c := range []federation.ClusterID{"c1", "c2", "c12"} {
			if r.IntN(3) > 0 {
				svc.Clusters = append(svc.Clusters, c)
			}
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// usersRoutes returns virtual hosts of the user's, one of them for all hosts.
func usersRoutes(r *rand.Rand) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: "default/eg/http"}
	for i, domain := range []string{"*", "h.example"} {
		vh := &routev3.VirtualHost{Name: fmt.Sprintf("default/eg/http/%d", i), Domains: []string{domain}}
		for n := range r.IntN(5) {
			var match *routev3.RouteMatch
			path := []string{"/", "/api", "/api/a", "/api/a/b", "/cross-cluster", "/cross-cluster/ab", "/cross-cluster/ab-c1/deep", "/other"}[r.IntN(8)]
			switch r.IntN(3) {
			case 0:
				match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: path}}
			case 1:
				match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: path}}
			default:
				match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: strings.TrimSuffix(path, "/") + "/y"}}
			}
			vh.Routes = append(vh.Routes, &routev3.Route{
				Name: fmt.Sprintf("httproute/default/r%d", n), Match: match,
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: fmt.Sprintf("user-%d", n)}}},
			})
		}
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
	}
	return rc
}

// withBlockers adds to each virtual host, in front as Envoy Gateway would, routes that reach deep and that no request meets.
func withBlockers(rc *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	rc = proto.CloneOf(rc)
	for _, vh := range rc.GetVirtualHosts() {
		for _, root := range []string{"/api", "/cross-cluster", "/a", "/ab", "/ab-c", "/b", "/b-c1", "/web"} {
			vh.Routes = slices.Insert(vh.Routes, 0, &routev3.Route{
				Name: "blocker", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: root + "/-/-/-/-"}},
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 418}},
			})
		}
	}
	return rc
}

func compiled(t *testing.T, r translate.Resources) *router.Config {
	t.Helper()
	c, err := router.Compile(r.Routes[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// someRequest makes a request for one of the services, or for something like it.
func someRequest(r *rand.Rand, s translate.Snapshot) *http.Request {
	pick := func(texts ...string) string { return texts[r.IntN(len(texts))] }
	names := []string{"a", "unknown"}
	for _, svc := range s.Services {
		names = append(names, svc.ID.Name, svc.ID.Name+"."+svc.ID.Namespace, svc.ID.Namespace+"/"+svc.ID.Name)
		for _, c := range svc.Clusters {
			names = append(names, svc.ID.Name+"-"+string(c), svc.ID.Name+"."+svc.ID.Namespace+"."+string(c))
		}
	}
	path := pick("/cross-cluster", "/api", "", "/gateway") + "/" + pick(names...) + pick("", "", "x") + pick("", "/", "//", "/y", "/b/c", "/x", "?q=/api/a", "/?q")
	req := httptest.NewRequest(pick(http.MethodGet, http.MethodPost), path, nil)
	req.Host = pick("*", "h.example", "other", "a.in.example", "ab.out.example", "web.in.example")
	if r.IntN(4) == 0 {
		req.Header.Set(translate.HopHeader, pick("c1", "c2", "c2, c1"))
	}
	return req
}

// decision says all that a client, or the upstream, would notice of the route that a request takes.
func decision(c *router.Config, req *http.Request) string {
	ch := c.Route(req)
	switch {
	case ch == nil:
		return "no route"
	case ch.Route.Direct != nil:
		return fmt.Sprint("answers ", ch.Route.Direct.Status)
	}
	out := req.Clone(req.Context())
	ch.Rewrite(out, req)
	f := ch.Route.Forward
	upgrades := []string{}
	for u := range f.Upgrades {
		upgrades = append(upgrades, u)
	}
	slices.Sort(upgrades)
	idle := time.Duration(-1)
	if f.IdleTimeout != nil {
		idle = *f.IdleTimeout
	}
	return fmt.Sprintf("%s at %s with %v, limits %v %v %v %v, retries %+v, upgrades %v", ch.Cluster, out.URL.RequestURI(), out.Header,
		f.Timeout, idle, f.MaxDuration, f.GRPCTimeout, f.Retry, upgrades)
}
