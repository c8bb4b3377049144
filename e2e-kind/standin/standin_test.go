package standin_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/xds"
)

const (
	hcmHead = `"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`
	// What Envoy Gateway sends for an HTTP listener.
	gateway = `# listener
name: default/eg/http
address: {socket_address: {address: 127.0.0.1, port_value: %d}}
access_log:
- name: envoy.access_loggers.file
  filter: {response_flag_filter: {flags: [NR]}}
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: /dev/stdout
    log_format: {json_format: {method: "%%REQ(:METHOD)%%", start_time: "%%START_TIME%%"}}
per_connection_buffer_limit_bytes: 32768
max_connections_to_accept_per_socket_event: 1
default_filter_chain:
  name: default/eg/http
  filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      ` + hcmHead + `
      stat_prefix: http-10080
      rds: {config_source: {ads: {}, resource_api_version: V3}, route_config_name: default/eg/http}
      common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
      http2_protocol_options: {max_concurrent_streams: 100, initial_stream_window_size: 65536, initial_connection_window_size: 1048576}
      use_remote_address: true
      normalize_path: true
      merge_slashes: true
      path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT
      server_header_transformation: PASS_THROUGH
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}
`
	readyListener = `# listener
name: envoy-gateway-proxy-ready-127.0.0.1-19003
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
bypass_overload_manager: true
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      ` + hcmHead + `
      stat_prefix: eg-ready-http
      route_config:
        name: ready_route
        virtual_hosts: [{name: ready_route, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 500}}]}]
      http_filters:
      - name: envoy.filters.http.health_check
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
          pass_through_mode: false
          headers: [{name: ":path", string_match: {exact: /ready}}]
      - name: envoy.filters.http.router
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}
`
	edsCluster = `# cluster
name: %s
type: EDS
connect_timeout: 1s
ignore_health_on_host_removal: true
common_lb_config: {}
dns_lookup_family: V4_PREFERRED
circuit_breakers: {thresholds: [{max_retries: 1024}]}
per_connection_buffer_limit_bytes: 32768
load_balancing_policy:
  policies:
  - typed_extension_config:
      name: envoy.load_balancing_policies.least_request
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
        locality_lb_config: {locality_weighted_lb_config: {}}
eds_cluster_config:
  service_name: %s
  eds_config: {resource_api_version: V3, %s}
%s`
	byADS   = "ads: {}"
	bySpoke = "initial_fetch_timeout: 5s, api_config_source: {api_type: DELTA_GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: tsgw_xds}}]}"
	// The retries of a route over the tailnet.
	retries = "retry_policy: {retry_on: 'reset,connect-failure', num_retries: 3, retry_back_off: {base_interval: 0.001s}, host_selection_retry_max_attempts: 5, retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], retry_priority: {name: envoy.retry_priorities.previous_priorities, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}"
)

func routes(list ...string) string {
	return "# routes\nname: default/eg/http\nignore_port_in_host_matching: true\nvirtual_hosts:\n- name: v\n  domains: [\"*\"]\n  routes:\n  - " +
		strings.Join(list, "\n  - ") + "\n"
}

// gatewayWorld is a world with the gateway's listener, and routes.
func gatewayWorld(t *testing.T, resources ...string) (w *world, url string) {
	t.Helper()
	w = newWorld(t)
	for _, r := range resources {
		if assignment, ok := strings.CutPrefix(r, "# spoke\n"); ok {
			w.eds.set(assignment)
			continue
		}
		w.ads.set(r)
	}
	w.ads.set(fmt.Sprintf(gateway, freePort(t)))
	w.ads.set(readyListener)
	w.run()
	w.ready()
	return w, "http://" + w.listener("default/eg/http")
}

func TestGatewayByADSAndSpokeEDS(t *testing.T) {
	a, b := backend(t, says("local")), backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen-Host", r.Host)
		fmt.Fprintf(w, "remote %s xff=%t id=%t", r.RequestURI, r.Header.Get("X-Forwarded-For") != "", r.Header.Get("X-Request-Id") != "")
	})
	w, url := gatewayWorld(t,
		fmt.Sprintf(edsCluster, "local", "local", byADS, ""), endpoints("local", "0 "+a),
		fmt.Sprintf(edsCluster, "tsgw/webapp", "tsgw/webapp", bySpoke, ""), "# spoke\n"+endpoints("tsgw/webapp", "0 "+b),
		routes(`{match: {path_separated_prefix: /cross-cluster/webapp}, route: {cluster: tsgw/webapp, regex_rewrite: {pattern: {regex: '^/cross-cluster/webapp/?'}, substitution: /}, upgrade_configs: [{upgrade_type: websocket}]}}`,
			`{match: {prefix: /gone}, route: {cluster: nowhere, cluster_not_found_response_code: INTERNAL_SERVER_ERROR}}`,
			`{match: {prefix: /}, route: {cluster: local}}`),
	)
	for _, tt := range []struct {
		path string
		code int
		body string
	}{
		{"/", 200, "local"},
		{"/cross-cluster/webapp/x/y?q=1", 200, "remote /x/y?q=1 xff=true id=true"},
		{"/cross-cluster/./webapp//x", 200, "remote /x xff=true id=true"},
		{"/gone", 500, ""},
		{"/a%2Fb", 307, ""},
	} {
		code, body := fetch(t, http.MethodGet, url+tt.path)
		if code != tt.code || body != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.path, code, body, tt.code, tt.body)
		}
	}
	if code, _ := fetch(t, http.MethodGet, "http://"+w.listener("envoy-gateway-proxy-ready-127.0.0.1-19003")+"/ready"); code != 200 {
		t.Errorf("readiness probe got %d", code)
	}
	types := []string{}
	for _, e := range w.events.All() {
		if e.Outcome == events.Ack {
			types = append(types, e.Source+" "+e.Type[strings.LastIndex(e.Type, ".")+1:])
		}
	}
	for _, pair := range [][2]string{{"ads Cluster", "ads ClusterLoadAssignment"}, {"ads ClusterLoadAssignment", "ads Listener"}, {"tsgw_xds ClusterLoadAssignment", "ads Listener"}, {"ads Listener", "ads RouteConfiguration"}} {
		if i, j := slices.Index(types, pair[0]), slices.Index(types, pair[1]); i < 0 || j < i {
			t.Errorf("%s did not come before %s in %v", pair[0], pair[1], types)
		}
	}
}

func TestRefusalsAreNackedByNameAndTheRestIsApplied(t *testing.T) {
	a := backend(t, says("a"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	w.ads.seen()
	bad := routes("{match: {prefix: /}, route: {cluster: c, hash_policy: [{header: {header_name: x}}]}}")
	for _, tt := range []struct{ name, doc, want string }{
		{"routes", bad, "unsupported: envoy.config.route.v3.RouteAction.hash_policy"},
		{"cluster-lb", fmt.Sprintf(edsCluster, "ring", "ring", byADS, "lb_subset_config: {fallback_policy: ANY_ENDPOINT}"), "unsupported: envoy.config.cluster.v3.Cluster.lb_subset_config"},
		{"grpc-health-check", fmt.Sprintf(edsCluster, "g", "g", byADS, "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}]"), "unsupported: envoy.config.core.v3.HealthCheck.grpc_health_check"},
		{"source-not-static", strings.Replace(fmt.Sprintf(edsCluster, "s", "s", bySpoke, ""), "tsgw_xds", "c", 1), "c is not a statically defined, non-EDS cluster"},
		{"address-in-use", strings.Replace(fmt.Sprintf(gateway, portOf(t, url)), "name: default/eg/http\naddress", "name: other\naddress", 1), "cannot bind"},
	} {
		w.ads.set(tt.doc)
		eventually(t, tt.name+" is refused with "+tt.want, func() bool {
			for _, r := range w.ads.seen() {
				if strings.Contains(r.GetErrorDetail().GetMessage(), tt.want) {
					return true
				}
			}
			return false
		})
		w.event(tt.name, func(e events.Event) bool { return e.Outcome == events.Nack && strings.Contains(e.Reason, tt.want) })
		if code, body := fetch(t, http.MethodGet, url); code != 200 || body != "a" {
			t.Errorf("%s: after the refusal %d %q", tt.name, code, body)
		}
	}
}

func portOf(t *testing.T, url string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStreamBreaksAndResumes(t *testing.T) {
	a, b := backend(t, says("a")), backend(t, says("b"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	w.ads.grpc.Stop()
	w.event("stream ended", func(e events.Event) bool { return e.Outcome == "disconnected" && e.Source == "ads" })
	if code, body := fetch(t, http.MethodGet, url); code != 200 || body != "a" {
		t.Errorf("without a control plane: %d %q", code, body)
	}
	w.ads.seen()
	w.ads.set(endpoints("c", "0 "+b))
	w.ads.start(w.ads.address, w.creds)
	eventually(t, "the change of meanwhile arrives", func() bool { _, body := fetch(t, http.MethodGet, url); return body == "b" })
	first := map[string]map[string]string{}
	for _, r := range w.ads.seen() {
		if first[r.GetTypeUrl()] == nil {
			first[r.GetTypeUrl()] = map[string]string{"": "asked"}
			maps.Copy(first[r.GetTypeUrl()], r.GetInitialResourceVersions())
		}
	}
	for typeURL, name := range map[string]string{xds.ClusterType: "c", xds.EndpointType: "c", xds.RouteType: "default/eg/http", xds.ListenerType: "default/eg/http"} {
		if first[typeURL][name] == "" {
			t.Errorf("the new stream did not resume %s of %s: %v", name, typeURL, first[typeURL])
		}
	}
}

func TestRemovals(t *testing.T) {
	a := backend(t, says("a"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	w.ads.remove(xds.EndpointType, "c")
	w.event("endpoints removed", func(e events.Event) bool { return e.Type == xds.EndpointType && slices.Contains(e.Removed, "c") })
	if _, body := fetch(t, http.MethodGet, url); body != "a" {
		t.Errorf("the removal of endpoints by their source must be ignored; got %q", body)
	}
	w.ads.remove(xds.ClusterType, "c")
	eventually(t, "the cluster is gone", func() bool { code, _ := fetch(t, http.MethodGet, url); return code == 503 })
	eventually(t, "its endpoints are no longer subscribed to", func() bool {
		for _, r := range w.ads.seen() {
			if slices.Contains(r.GetResourceNamesUnsubscribe(), "c") {
				return true
			}
		}
		return false
	})
	w.ads.remove(xds.ListenerType, "default/eg/http")
	eventually(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
}

func TestListenerUpdateKeepsConnections(t *testing.T) {
	a := backend(t, says("a"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	ask := func() *http.Response {
		t.Helper()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	ask()
	w.ads.set(routes("{match: {prefix: /}, route: {cluster: c}, response_headers_to_add: [{header: {key: x-new, value: r}}]}"))
	eventually(t, "the new route serves the old connection", func() bool { return ask().Header.Get("X-New") == "r" })
	changed := strings.Replace(fmt.Sprintf(gateway, portOf(t, url)), "merge_slashes: true", "merge_slashes: false", 1)
	w.ads.set(changed)
	var last *http.Response
	eventually(t, "the old connection is asked to close", func() bool { last = ask(); return last.Close })
	if last.StatusCode != 200 {
		t.Errorf("status %d", last.StatusCode)
	}
	if code, _ := fetch(t, http.MethodGet, url); code != 200 {
		t.Errorf("a new connection got %d", code)
	}
}

func TestTLSListenerWithSDSAndSNI(t *testing.T) {
	chain := func(name, sni string) string {
		return `- name: ` + name + `
  filter_chain_match: {server_names: ["` + sni + `"]}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      disable_stateful_session_resumption: true
      common_tls_context: {alpn_protocols: [h2, http/1.1], tls_certificate_sds_secret_configs: [{name: ` + name + `, sds_config: {ads: {}, resource_api_version: V3}}]}
  filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      ` + hcmHead + `
      stat_prefix: https
      route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "` + name + `"}}}]}]}
      http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`
	}
	w := newWorld(t)
	w.ads.set("# listener\nname: https\naddress: {socket_address: {address: 127.0.0.1, port_value: 0}}\nlistener_filters: [{name: envoy.filters.listener.tls_inspector, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\nfilter_chains:\n" +
		chain("exact", "a.example.com") + chain("wild", "*.example.com"))
	ca, caKey := makeCert(t, nil, nil, "ca")
	secret := func(name, dns string) {
		cert, key := makeCert(t, ca, caKey, dns)
		w.ads.set(fmt.Sprintf("# secret\nname: %s\ntls_certificate: {certificate_chain: {inline_string: %q}, private_key: {inline_string: %q}}", name,
			pemText("CERTIFICATE", cert.Raw), pemText("PRIVATE KEY", keyDER(t, key))))
	}
	secret("exact", "a.example.com")
	w.run()
	w.event("the listener has been accepted", func(e events.Event) bool { return e.Type == xds.ListenerType })
	if code, body := w.get("/ready"); code != 503 {
		t.Errorf("ready without a secret: %d %s", code, body)
	}
	secret("wild", "*.example.com")
	w.ready()
	address := w.listener("https")
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	get := func(name string) (string, string, error) {
		c := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: name, RootCAs: pool}}}
		resp, err := c.Get("https://" + address)
		if err != nil {
			return "", "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), resp.Proto, err
	}
	for name, want := range map[string]string{"a.example.com": "exact", "b.example.com": "wild"} {
		if body, proto, err := get(name); err != nil || body != want || proto != "HTTP/2.0" {
			t.Errorf("%s: %q over %s, %v; want %q over HTTP/2.0", name, body, proto, err, want)
		}
	}
	if _, _, err := get("other.org"); err == nil {
		t.Error("a server name without a filter chain was served")
	}
}

// TestShutdownManager makes the calls that Envoy Gateway's shutdown manager makes.
func TestShutdownManager(t *testing.T) {
	a := backend(t, says("a"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	probe := "http://" + w.listener("envoy-gateway-proxy-ready-127.0.0.1-19003") + "/ready"
	if code, _ := fetch(t, http.MethodPost, "http://"+w.admin+"/drain_listeners?graceful&skip_exit"); code != 200 {
		t.Errorf("drain_listeners: %d", code)
	}
	if code, _ := fetch(t, http.MethodPost, "http://"+w.admin+"/healthcheck/fail"); code != 200 {
		t.Errorf("healthcheck/fail: %d", code)
	}
	if code, _ := fetch(t, http.MethodGet, probe); code != 503 {
		t.Errorf("readiness probe after healthcheck/fail: %d", code)
	}
	if code, _ := fetch(t, http.MethodGet, url); code != 200 {
		t.Errorf("a draining gateway answered %d", code)
	}
	var out struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	eventually(t, "no downstream connection is left", func() bool {
		_, body := w.get("//stats?filter=^listener\\..*\\.downstream_cx_active$&format=json")
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		total := 0
		for _, s := range out.Stats {
			total += s.Value
		}
		return len(out.Stats) > 0 && total == 0
	})
	if code, _ := fetch(t, http.MethodPost, "http://"+w.admin+"/healthcheck/ok"); code != 200 {
		t.Errorf("healthcheck/ok: %d", code)
	}
	if code, _ := fetch(t, http.MethodGet, probe); code != 200 {
		t.Errorf("readiness probe after healthcheck/ok: %d", code)
	}
}

func TestAdmin(t *testing.T) {
	a := backend(t, says("a"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	fetch(t, http.MethodGet, url)
	for path, wants := range map[string][]string{
		"/server_info":      {`"LIVE"`, "tailgate-envoy-standin", "not Envoy"},
		"/stats":            {"cluster.c.upstream_rq_200: 1\n", "http.http-10080.downstream_rq_2xx: 1\n", "cluster.c.membership_healthy: 1\n"},
		"/stats/prometheus": {`envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="c"} 1`, `envoy_cluster_membership_healthy{envoy_cluster_name="c"} 1`, "# TYPE envoy_cluster_upstream_cx_total counter"},
		"/stats?format=prometheus&filter=upstream_rq_total": {`envoy_cluster_upstream_rq_total{envoy_cluster_name="c"} 1`},
		"/clusters?format=json":                             {`"c"`, `"eds_health_status"`},
		"/config_dump":                                      {`"default/eg/http"`, "envoy.admin.v3.EndpointsConfigDump", "tsgw_xds"},
		"/listeners":                                        {"default/eg/http::" + strings.TrimPrefix(url, "http://")},
		"/standin/events":                                   {`"outcome":"ack"`, `"names":["c"]`},
	} {
		code, body := w.get(path)
		for _, want := range wants {
			if code != 200 || !strings.Contains(strings.ReplaceAll(body, `":  `, `": `), want) {
				t.Errorf("%s: %d without %q:\n%.2000s", path, code, want, body)
			}
		}
	}
	if code, _ := w.get("/quitquitquit"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET /quitquitquit: %d", code)
	}
	if code, _ := w.get("/nothing"); code != http.StatusNotFound {
		t.Errorf("GET /nothing: %d", code)
	}
}

func TestEventsAreBounded(t *testing.T) {
	var mirror bytes.Buffer
	now := time.Unix(1, 0)
	l := events.New(2, func() time.Time { return now }, &mirror)
	for _, v := range []string{"1", "2", "3"} {
		l.Add(events.Event{Version: v, Outcome: events.Ack})
	}
	got := []string{}
	for _, e := range l.All() {
		got = append(got, e.Version)
	}
	if d := cmp.Diff([]string{"2", "3"}, got); d != "" {
		t.Errorf("kept versions (-want +got):\n%s", d)
	}
	if n := strings.Count(mirror.String(), "\n"); n != 3 {
		t.Errorf("the mirror has %d lines, want 3", n)
	}
}
