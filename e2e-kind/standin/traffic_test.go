package standin_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
)

func TestResetMovesToTheNextPriority(t *testing.T) {
	dead, accepted := resetter(t)
	b := backend(t, says("second"))
	w, url := gatewayWorld(t,
		fmt.Sprintf(edsCluster, "c", "c", bySpoke, "outlier_detection: {consecutive_5xx: 2, base_ejection_time: 600s, max_ejection_percent: 100}"),
		"# spoke\n"+endpoints("c", "0 "+dead, "1 "+b),
		routes("{match: {prefix: /}, route: {cluster: c, "+retries+"}}"))
	for i := range 20 {
		if code, body := fetch(t, http.MethodGet, url); code != 200 || body != "second" {
			t.Fatalf("request %d: %d %q", i, code, body)
		}
	}
	if n := accepted(); n != 2 {
		t.Errorf("the dead endpoint had %d connections; outlier detection should have ended it after 2", n)
	}
	_, stats := w.get("/stats?filter=cluster\\.c\\.(upstream_rq_retry|outlier|membership_healthy)")
	for _, want := range []string{"cluster.c.upstream_rq_retry: 2\n", "cluster.c.outlier_detection.ejections_enforced_total: 1\n", "cluster.c.membership_healthy: 1\n"} {
		if !strings.Contains(stats, want) {
			t.Errorf("statistics lack %q:\n%s", want, stats)
		}
	}
	_, text := w.get("/clusters")
	if want := "c::" + dead + "::health_flags::/failed_outlier_check\n"; !strings.Contains(text, want) {
		t.Errorf("/clusters lacks %q:\n%s", want, text)
	}
}

func TestResetBeforeRequestDoesNotCoverARequestThatWasSent(t *testing.T) {
	dead, accepted := resetter(t)
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+dead),
		routes("{match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: reset-before-request, num_retries: 3}}}"))
	if code, body := fetch(t, http.MethodGet, url); code != 503 || !strings.Contains(body, "connection termination") {
		t.Errorf("got %d %q", code, body)
	}
	if n := accepted(); n != 1 {
		t.Errorf("the request was sent %d times", n)
	}
}

// A kept connection that turns out dead must be seen as a reset: the transport must not send the request again.
func TestDeadKeptConnectionIsNotRetriedBehindThePolicy(t *testing.T) {
	var requests atomic.Int32
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if n := requests.Add(1); n > 1 {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "first")
	})
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+b), routes("{match: {prefix: /}, route: {cluster: c}}"))
	if code, _ := fetch(t, http.MethodGet, url); code != 200 {
		t.Fatalf("first request: %d", code)
	}
	for _, header := range []string{"", "Idempotency-Key"} {
		before := requests.Load()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set(header, "1")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if n := requests.Load() - before; resp.StatusCode != 503 || n != 1 {
			t.Errorf("%q: status %d after %d requests, want 503 after 1", header, resp.StatusCode, n)
		}
	}
}

func TestBodyIsReplayed(t *testing.T) {
	dead, _ := resetter(t)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		all, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("body after %d bytes: %v", len(all), err)
		}
		_, _ = w.Write(all)
	})
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+dead, "1 "+b),
		routes("{match: {prefix: /}, route: {cluster: c, "+retries+"}}"))
	body := bytes.Repeat([]byte("0123456789"), 50_000)
	for _, length := range []int64{int64(len(body)), -1} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("length %d: %d of %d bytes came back, error %v", length, len(got), len(body), err)
		}
	}
}

func TestEndpointUpdatesLoseNoRequest(t *testing.T) {
	hold := make(chan struct{})
	a := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			fmt.Fprint(w, "begin ")
			_ = http.NewResponseController(w).Flush()
			<-hold
		}
		fmt.Fprint(w, "a")
	})
	b := backend(t, says("b"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", bySpoke, ""), "# spoke\n"+endpoints("c", "0 "+a), routes("{match: {prefix: /}, route: {cluster: c}}"))
	slow, err := client.Get(url + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var failed atomic.Int32
	keep := &http.Client{Transport: &http.Transport{}}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := keep.Get(url)
				if err != nil || resp.StatusCode != 200 {
					failed.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
	acks := func() int {
		n := 0
		for _, e := range w.events.All() {
			if e.Source == "tsgw_xds" && e.Outcome == events.Ack {
				n++
			}
		}
		return n
	}
	for i := range 50 {
		before := acks()
		w.eds.set(endpoints("c", "0 "+[]string{b, a}[i%2]))
		eventually(t, "the update arrives", func() bool { return acks() > before })
		if i%10 == 0 { // routes and the listener change too
			w.ads.set(routes("{match: {prefix: /}, route: {cluster: c}}", fmt.Sprintf("{match: {prefix: /%d}, route: {cluster: c}}", i)))
		}
	}
	w.eds.set(endpoints("c", "0 "+b))
	eventually(t, "b alone answers", func() bool { _, body := fetch(t, http.MethodGet, url); return body == "b" })
	close(stop)
	wg.Wait()
	keep.CloseIdleConnections()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d requests failed", n)
	}
	close(hold)
	rest, err := io.ReadAll(slow.Body)
	if err != nil || string(rest) != "begin a" {
		t.Errorf("the request in flight to the removed endpoint got %q, %v", rest, err)
	}
}

func TestPriorityAndHealthByEDS(t *testing.T) {
	a, b := backend(t, says("a")), backend(t, says("b"))
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", bySpoke, ""), "# spoke\n"+endpoints("c", "0 "+a, "1 "+b), routes("{match: {prefix: /}, route: {cluster: c}}"))
	for _, step := range []struct{ eps, want string }{
		{"0 " + a + ";1 " + b, "a"},
		{"0 " + a + " UNHEALTHY;1 " + b, "b"},
		{"0 " + a + " DRAINING;1 " + b, "b"},
		{"0 " + a + " HEALTHY;1 " + b, "a"},
		{"0 " + b, "b"},
		{"0 " + b + " UNHEALTHY", "b"}, // panic
	} {
		w.eds.set(endpoints("c", strings.Split(step.eps, ";")...))
		eventually(t, step.eps+" leads to "+step.want, func() bool { _, body := fetch(t, http.MethodGet, url); return body == step.want })
		for range 10 {
			if _, body := fetch(t, http.MethodGet, url); body != step.want {
				t.Errorf("%s: %q answered", step.eps, body)
			}
		}
	}
	w.eds.set("# endpoints\ncluster_name: c")
	eventually(t, "no healthy upstream", func() bool {
		code, body := fetch(t, http.MethodGet, url)
		return code == 503 && body == "no healthy upstream"
	})
}

func TestActiveHealthChecks(t *testing.T) {
	var sick atomic.Bool
	a := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && sick.Load() {
			w.WriteHeader(500)
		}
		fmt.Fprint(w, "a")
	})
	b := backend(t, says("b"))
	checks := "health_checks: [{timeout: 1s, interval: 0.005s, no_traffic_interval: 0.005s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: {path: /healthz}}, {timeout: 1s, interval: 0.01s, no_traffic_interval: 0.01s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]"
	w, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, checks), endpoints("c", "0 "+a, "1 "+b), routes("{match: {prefix: /}, route: {cluster: c}}"))
	answer := func(want string) {
		t.Helper()
		eventually(t, want+" answers", func() bool { _, body := fetch(t, http.MethodGet, url); return body == want })
	}
	answer("a")
	sick.Store(true)
	answer("b")
	if _, text := w.get("/clusters"); !strings.Contains(text, "c::"+a+"::health_flags::/failed_active_hc") {
		t.Errorf("/clusters does not show the failed check:\n%s", text)
	}
	sick.Store(false)
	answer("a")
}

func TestWebSocketTunnel(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, brw)
	})
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+b),
		routes("{match: {prefix: /no}, route: {cluster: c}}", "{match: {prefix: /}, route: {cluster: c, timeout: 0.05s, upgrade_configs: [{upgrade_type: websocket}]}}"))
	dial := func(path string) (net.Conn, *bufio.Reader, *http.Response) {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, br, resp
	}
	if _, _, resp := dial("/no"); resp.StatusCode != 403 {
		t.Errorf("a route without upgrade_configs answered %d", resp.StatusCode)
	}
	conn, br, resp := dial("/")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("status %d, Upgrade %q", resp.StatusCode, resp.Header.Get("Upgrade"))
	}
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(conn, line); err != nil {
			t.Fatal(err)
		}
		if got, err := br.ReadString('\n'); got != line || err != nil {
			t.Errorf("echo %q, %v", got, err)
		}
	}
}

func TestTimeoutsAndTrailers(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var tries atomic.Int32
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/hang", r.URL.Path == "/try" && tries.Add(1) < 3:
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case r.URL.Path == "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.Copy(w, r.Body)
			w.Header().Set("X-Sum", "of "+r.Trailer.Get("X-In"))
		default:
			fmt.Fprint(w, "ok")
		}
	})
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c", "0 "+b),
		routes("{match: {prefix: /hang}, route: {cluster: c, timeout: 0.05s}}",
			"{match: {prefix: /try}, route: {cluster: c, timeout: 10s, retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.05s, retry_back_off: {base_interval: 0.001s}}}}",
			"{match: {prefix: /}, route: {cluster: c}}"))
	if code, body := fetch(t, http.MethodGet, url+"/hang"); code != 504 || body != "upstream request timeout" {
		t.Errorf("route timeout: %d %q", code, body)
	}
	if code, body := fetch(t, http.MethodGet, url+"/try"); code != 200 || body != "ok" {
		t.Errorf("per-try timeout: %d %q", code, body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/trailer", io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-In": {"trailer"}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != "body" || resp.Trailer.Get("X-Sum") != "of trailer" {
		t.Errorf("body %q, trailer %q, %v", got, resp.Trailer.Get("X-Sum"), err)
	}
}

// TestLocalRepliesToGRPC asks for what the proxy answers itself.
func TestLocalRepliesToGRPC(t *testing.T) {
	_, url := gatewayWorld(t, fmt.Sprintf(edsCluster, "c", "c", byADS, ""), endpoints("c"),
		routes("{match: {prefix: /none}, route: {cluster: c}}", "{match: {prefix: /denied}, direct_response: {status: 403, body: {inline_string: not you}}}"))
	for _, tc := range []struct{ path, contentType, code, grpc, message string }{
		{"/denied", "application/grpc", "200", "7", "not%20you"},
		{"/denied", "application/grpc+proto", "200", "7", "not%20you"},
		{"/denied", "application/grpc-web", "403", "", ""},
		{"/none", "application/grpc", "200", "14", "no%20healthy%20upstream"},
		{"/", "application/grpc", "200", "12", ""},
		{"/", "text/plain", "404", "", ""},
	} {
		t.Run(tc.contentType+" "+tc.path, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+tc.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", tc.contentType)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			code, grpc, message := strconv.Itoa(resp.StatusCode), resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
			if code != tc.code || grpc != tc.grpc || message != tc.message {
				t.Errorf("got %s, grpc-status %q, grpc-message %q; want %s, %q, %q", code, grpc, message, tc.code, tc.grpc, tc.message)
			}
		})
	}
}
