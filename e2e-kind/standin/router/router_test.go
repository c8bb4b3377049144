package router_test

import (
	stdcmp "cmp"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	_ "github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

func parse(t *testing.T, text string) *routev3.RouteConfiguration {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cfg := &routev3.RouteConfiguration{}
	if err := protojson.Unmarshal(j, cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func compile(t *testing.T, text string) *router.Config {
	t.Helper()
	cfg, err := router.Compile(parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const hosts = `
name: r
ignore_port_in_host_matching: true
virtual_hosts:
- {name: exact, domains: [web.example.com], routes: [{match: {prefix: /}, name: exact, direct_response: {status: 200}}]}
- {name: suffix, domains: ["*.example.com"], routes: [{match: {prefix: /}, name: suffix, direct_response: {status: 200}}]}
- {name: longer, domains: ["*.web.example.com"], routes: [{match: {prefix: /}, name: longer, direct_response: {status: 200}}]}
- {name: prefix, domains: ["api.*"], routes: [{match: {prefix: /}, name: prefix, direct_response: {status: 200}}]}
- {name: any, domains: ["*"], routes: [{match: {prefix: /}, name: any, direct_response: {status: 200}}]}
`

func TestVirtualHost(t *testing.T) {
	cfg := compile(t, hosts)
	for host, want := range map[string]string{
		"web.example.com": "exact", "WEB.example.COM": "exact", "web.example.com:8080": "exact", "x.example.com": "suffix",
		"a.web.example.com": "longer", "api.internal": "prefix", "api.example.com": "suffix", "other": "any", "[::1]:80": "any",
		"example.com": "any",
	} {
		r := httptest.NewRequest(http.MethodGet, "http://x/", nil)
		r.Host = host
		if got := cfg.Route(r).Route.Name; got != want {
			t.Errorf("host %s took %s, want %s", host, got, want)
		}
	}
}

const matches = `
name: r
virtual_hosts:
- name: v
  domains: ["*"]
  routes:
  - {name: separated, match: {path_separated_prefix: /sep}, direct_response: {status: 200}}
  - {name: path, match: {path: /exact}, direct_response: {status: 200}}
  - {name: regex, match: {safe_regex: {regex: "/re/[0-9]+"}}, direct_response: {status: 200}}
  - {name: method, match: {prefix: /m, headers: [{name: ":method", string_match: {exact: GET}}]}, direct_response: {status: 200}}
  - {name: header-regex, match: {prefix: /h, headers: [{name: x-a, string_match: {safe_regex: {regex: "v[0-9]"}}}]}, direct_response: {status: 200}}
  - {name: header-prefix, match: {prefix: /h, headers: [{name: x-a, string_match: {prefix: "pre"}}]}, direct_response: {status: 200}}
  - {name: header-contains, match: {prefix: /h, headers: [{name: x-a, string_match: {contains: "mid"}}]}, direct_response: {status: 200}}
  - {name: header-suffix, match: {prefix: /h, headers: [{name: x-a, string_match: {suffix: END, ignore_case: true}}]}, direct_response: {status: 200}}
  - {name: header-inverted, match: {prefix: /h, headers: [{name: x-b, string_match: {exact: "1"}, invert_match: true}]}, direct_response: {status: 200}}
  - {name: header-absent, match: {prefix: /h, headers: [{name: x-c, present_match: true, invert_match: true}]}, direct_response: {status: 200}}
  - {name: query, match: {prefix: /q, query_parameters: [{name: debug, string_match: {exact: "yes"}}]}, direct_response: {status: 200}}
  - {name: query-present, match: {prefix: /q, query_parameters: [{name: any, present_match: true}]}, direct_response: {status: 200}}
  - {name: cookie, match: {prefix: /c, cookies: [{name: s, string_match: {exact: "1"}}]}, direct_response: {status: 200}}
  - {name: prefix, match: {prefix: /pre}, direct_response: {status: 200}}
  - {name: fold, match: {prefix: /FOLD, case_sensitive: false}, direct_response: {status: 200}}
`

func TestMatch(t *testing.T) {
	cfg := compile(t, matches)
	for _, tt := range []struct {
		name, method, target string
		header               http.Header
		want                 string
	}{
		{name: "separated-whole", target: "/sep", want: "separated"},
		{name: "separated-below", target: "/sep/x", want: "separated"},
		{name: "separated-longer-word", target: "/separate"},
		{name: "path", target: "/exact?q=1", want: "path"},
		{name: "path-longer", target: "/exact/x"},
		{name: "regex-full", target: "/re/12", want: "regex"},
		{name: "regex-is-anchored", target: "/re/12x"},
		{name: "method", target: "/m", want: "method"},
		{name: "other-method", method: http.MethodPost, target: "/m"},
		{name: "header-regex", target: "/h", header: http.Header{"X-A": {"v1"}}, want: "header-regex"},
		{name: "header-prefix", target: "/h", header: http.Header{"X-A": {"prefix"}}, want: "header-prefix"},
		{name: "header-contains", target: "/h", header: http.Header{"X-A": {"amidst"}}, want: "header-contains"},
		{name: "header-suffix-folds", target: "/h", header: http.Header{"X-A": {"theend"}}, want: "header-suffix"},
		{name: "header-values-are-joined", target: "/h", header: http.Header{"X-A": {"a", "rEnd"}}, want: "header-suffix"},
		{name: "inverted-needs-the-header", target: "/h", header: http.Header{"X-C": {"1"}}},
		{name: "inverted", target: "/h", header: http.Header{"X-B": {"2"}, "X-C": {"1"}}, want: "header-inverted"},
		{name: "absent", target: "/h", want: "header-absent"},
		{name: "query", target: "/q?debug=yes", want: "query"},
		{name: "query-present", target: "/q?debug=no&any", want: "query-present"},
		{name: "query-missing", target: "/q"},
		{name: "cookie", target: "/c", header: http.Header{"Cookie": {"s=1"}}, want: "cookie"},
		{name: "cookie-missing", target: "/c"},
		{name: "prefix", target: "/prefix", want: "prefix"},
		{name: "case", target: "/fold/x", want: "fold"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(stdcmp.Or(tt.method, http.MethodGet), "http://h"+tt.target, nil)
			r.Header = tt.header
			got := ""
			if ch := cfg.Route(r); ch != nil {
				got = ch.Route.Name
			}
			if got != tt.want {
				t.Errorf("took route %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ name, match, action, target, wantURI, wantHost string }{
		{name: "nothing", match: "prefix: /a", action: "cluster: c", target: "/a/b?q=1", wantURI: "/a/b?q=1", wantHost: "h"},
		{name: "prefix", match: "prefix: /a", action: "cluster: c, prefix_rewrite: /x", target: "/a/b?q=1", wantURI: "/x/b?q=1", wantHost: "h"},
		{name: "prefix-to-slash-doubles", match: "path_separated_prefix: /a", action: `cluster: c, prefix_rewrite: "/"`, target: "/a/b", wantURI: "//b", wantHost: "h"},
		{name: "regex-strips", match: "path_separated_prefix: /a", action: `cluster: c, regex_rewrite: {pattern: {regex: '^/a/?'}, substitution: "/"}`, target: "/a/b", wantURI: "/b", wantHost: "h"},
		{name: "regex-strips-all", match: "path_separated_prefix: /a", action: `cluster: c, regex_rewrite: {pattern: {regex: '^/a/?'}, substitution: "/"}`, target: "/a", wantURI: "/", wantHost: "h"},
		{name: "regex-groups", match: "prefix: /", action: `cluster: c, regex_rewrite: {pattern: {regex: '^/s/([^/]+)(/.*)$'}, substitution: '\2/i/\1$'}`, target: "/s/foo/v1", wantURI: "/v1/i/foo$", wantHost: "h"},
		{name: "escaped-path-stays-escaped", match: "prefix: /a", action: "cluster: c, prefix_rewrite: /x", target: "/a/b%2Fc%20d", wantURI: "/x/b%2Fc%20d", wantHost: "h"},
		{name: "host-literal", match: "prefix: /", action: "cluster: c, host_rewrite_literal: other.svc", target: "/", wantURI: "/", wantHost: "other.svc"},
		{name: "host-header", match: "prefix: /", action: "cluster: c, host_rewrite_header: x-host", target: "/", wantURI: "/", wantHost: "from-header"},
		{name: "host-of-weighted-cluster", match: "prefix: /", action: "weighted_clusters: {clusters: [{name: c, weight: 1, host_rewrite_literal: w}]}, host_rewrite_literal: other", target: "/", wantURI: "/", wantHost: "w"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {`+tt.match+`}, route: {`+tt.action+`}}]}]}`)
			in := httptest.NewRequest(http.MethodGet, "http://h"+tt.target, nil)
			in.Header.Set("X-Host", "from-header")
			out := in.Clone(t.Context())
			cfg.Route(in).Rewrite(out, in)
			if d := cmp.Diff([2]string{tt.wantURI, tt.wantHost}, [2]string{out.URL.RequestURI(), out.Host}); d != "" {
				t.Errorf("URI and Host (-want +got):\n%s", d)
			}
		})
	}
}

func TestRedirectAndDirectResponse(t *testing.T) {
	for _, tt := range []struct{ name, action, target, want string }{
		{name: "https-drops-port-80", action: "https_redirect: true", target: "http://h:80/a?q", want: "https://h/a?q"},
		{name: "host-and-port", action: "host_redirect: o.com, port_redirect: 8443, scheme_redirect: https", target: "http://h/a", want: "https://o.com:8443/a"},
		{name: "path", action: "path_redirect: /new, strip_query: true", target: "http://h/a?q", want: "http://h/new"},
		{name: "prefix", action: "prefix_rewrite: /b", target: "http://h/a/x?q=1", want: "http://h/b/x?q=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /a}, redirect: {`+tt.action+`, response_code: FOUND}}]}]}`)
			r := httptest.NewRequest(http.MethodGet, tt.target, nil)
			ch := cfg.Route(r)
			if got := ch.Location(r); got != tt.want || ch.Route.Redirect.Status != 302 {
				t.Errorf("redirect %d to %s, want 302 to %s", ch.Route.Redirect.Status, got, tt.want)
			}
		})
	}
	cfg := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 418, body_format: {text_format_source: {inline_string: "path %REQ(:PATH)% 100%%"}}}}]}]}`)
	r := httptest.NewRequest(http.MethodGet, "/a?b", nil)
	if got := cfg.Route(r).Route.Direct.Body(r); got != "path /a?b 100%" {
		t.Errorf("body %q", got)
	}
}

const mutations = `
name: r
%s
request_headers_to_add: [{header: {key: x-level, value: config}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
virtual_hosts:
- name: v
  domains: ["*"]
  request_headers_to_add: [{header: {key: x-level, value: vhost}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
  response_headers_to_remove: [x-secret]
  routes:
  - match: {prefix: /}
    route:
      weighted_clusters:
        clusters: [{name: c, weight: 1, request_headers_to_add: [{header: {key: x-level, value: weighted}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}]
    request_headers_to_remove: [x-gone]
    request_headers_to_add:
    - {header: {key: x-level, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-list, value: more}}
    - {header: {key: x-list-overwritten, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-absent, value: new}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-present, value: new}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-only-if, value: new}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: x-copy, value: "%%REQ(x-missing?x-present):2%%/%%REQ(:method)%%"}}
    - {header: {key: x-empty, value: "%%REQ(x-missing)%%"}}
`

func TestMutations(t *testing.T) {
	for winner, option := range map[string]string{"config": "", "weighted": "most_specific_header_mutations_wins: true"} {
		cfg := compile(t, strings.ReplaceAll(strings.Replace(mutations, "%s", option, 1), "%%", "%"))
		in := httptest.NewRequest(http.MethodGet, "/", nil)
		in.Header = http.Header{"X-Gone": {"1"}, "X-List": {"one"}, "X-List-Overwritten": {"old"}, "X-Present": {"old"}}
		out := in.Header.Clone()
		ch := cfg.Route(in)
		ch.MutateRequest(out, in)
		want := http.Header{
			"X-Level": {winner}, "X-List": {"one", "more"}, "X-List-Overwritten": {"new"}, "X-Absent": {"new"}, "X-Present": {"old"},
			"X-Copy": {"ol/GET"},
		}
		if d := cmp.Diff(want, out); d != "" {
			t.Errorf("request headers (-want +got):\n%s", d)
		}
		resp := http.Header{"X-Secret": {"1"}, "X-Ok": {"1"}}
		ch.MutateResponse(resp, in)
		if d := cmp.Diff(http.Header{"X-Ok": {"1"}}, resp); d != "" {
			t.Errorf("response headers (-want +got):\n%s", d)
		}
	}
}

func TestWeightsAreRespected(t *testing.T) {
	cfg := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 90}, {name: b, weight: 10}, {name: c, weight: 0}]}}}]}]}`)
	count := map[string]int{}
	for range 10_000 {
		count[cfg.Route(httptest.NewRequest(http.MethodGet, "/", nil)).Cluster]++
	}
	if count["a"] < 8700 || count["b"] < 700 || count["c"] != 0 {
		t.Errorf("90:10:0 gave %v", count)
	}
}

// specified has a route whose cluster a matcher tells, and one whose cluster it knows by heart.
const specified = `{name: r, cluster_specifier_plugins: [{extension: {name: by-path, typed_config: {
  "@type": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier,
  cluster_matcher: {matcher_tree: {
    input: {name: path, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: ":path"}},
    KIND: {map: {
      /a: {action: {name: c, typed_config: {"@type": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: one}}},
      /ab: {action: {name: c, typed_config: {"@type": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: two}}}}}}OTHERWISE}}}}],
  virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster_specifier_plugin: NAME}}]}]}`

func TestClusterSpecifier(t *testing.T) {
	const otherwise = `, on_no_match: {action: {name: c, typed_config: {"@type": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction, cluster: rest}}}`
	for _, tt := range []struct{ name, kind, otherwise, target, want string }{
		{name: "prefix", kind: "prefix_match_map", target: "/a/x?y", want: "one"},
		{name: "longest-prefix", kind: "prefix_match_map", target: "/abc", want: "two"},
		{name: "no-prefix", kind: "prefix_match_map", target: "/b"},
		{name: "no-prefix-but-a-rest", kind: "prefix_match_map", otherwise: otherwise, target: "/b", want: "rest"},
		{name: "exact", kind: "exact_match_map", target: "/ab", want: "two"},
		{name: "exact-has-the-query", kind: "exact_match_map", target: "/ab?", want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := compile(t, strings.NewReplacer("KIND", tt.kind, "OTHERWISE", tt.otherwise, "NAME", "by-path").Replace(specified))
			if got := cfg.Route(httptest.NewRequest(http.MethodGet, tt.target, nil)).Cluster; got != tt.want {
				t.Errorf("cluster %q, want %q", got, tt.want)
			}
		})
	}
	text := strings.NewReplacer("KIND", "prefix_match_map", "OTHERWISE", "", "NAME", "other").Replace(specified)
	if _, err := router.Compile(parse(t, text)); err == nil || !strings.Contains(err.Error(), "unknown cluster specifier plugin name: other") {
		t.Errorf("a route to a specifier that is not there: %v", err)
	}
}

func TestRefusedByName(t *testing.T) {
	route := func(action string) string {
		return `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, ` + action + `}]}]}`
	}
	for _, tt := range []struct{ name, in, want string }{
		{name: "cluster-header", in: route("route: {cluster_header: x}"), want: "envoy.config.route.v3.RouteAction.cluster_header"},
		{name: "hash-policy", in: route("route: {cluster: c, hash_policy: [{header: {header_name: x}}]}"), want: "envoy.config.route.v3.RouteAction.hash_policy"},
		{name: "mirror", in: route("route: {cluster: c, request_mirror_policies: [{cluster: m}]}"), want: "request_mirror_policies"},
		{name: "operator", in: route(`direct_response: {status: 200}, response_headers_to_add: [{header: {key: x, value: "%DOWNSTREAM_REMOTE_ADDRESS%"}}]`), want: "%DOWNSTREAM_REMOTE_ADDRESS%"},
		{name: "retry-condition", in: route("route: {cluster: c, retry_policy: {retry_on: http3-post-connect-failure}}"), want: "RetryPolicy.retry_on=http3-post-connect-failure"},
		{name: "host-header", in: route(`direct_response: {status: 200}, request_headers_to_add: [{header: {key: Host, value: x}}]`), want: "host headers may not be modified"},
		{name: "bad-regex", in: `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {safe_regex: {regex: "("}}, direct_response: {status: 200}}]}]}`, want: "regex"},
		{name: "duplicate-domain", in: `{name: r, virtual_hosts: [{name: v, domains: ["a"]}, {name: w, domains: ["A"]}]}`, want: "duplicate entry of domain a"},
		{name: "connect", in: route("route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT}]}"), want: "upgrade_type=CONNECT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := router.Compile(parse(t, tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
