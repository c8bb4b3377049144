package dashboard_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

var (
	rowName  = regexp.MustCompile(`(?s)<th scope="row"[^>]*><code>([^<]+)</code>`)
	nextPage = regexp.MustCompile(`href="([^"]+)" rel="next"`)
)

// thousands fills the registry with as many VIPs.
func (h *hub) thousands(n int) {
	h.vips = nil
	for i := range n {
		h.vips = append(h.vips, operator.VIP{
			ServiceName: fmt.Sprintf("local-production-svc-%04d", i), Name: "local", Service: serviceID(federation.Service("shop", "svc"+strconv.Itoa(i))),
			Cluster: clusterNames[i%6], TailnetRef: "production", Addresses: []netip.Addr{address(n - i)}, State: map[bool]string{true: "pending", false: "assigned"}[i%100 == 7],
			Ports: []operator.Port{{Port: uint16(8000 + i%2), Protocol: federation.TCP}},
		})
	}
}

// TestPaging walks through thousands of VIPs as one who follows Next, and must see each once.
func TestPaging(t *testing.T) {
	a := newAsker(t, false)
	a.hub.thousands(3120)
	seen := map[string]int{}
	pages := 0
	for path := "/vips?sort=-name"; path != ""; pages++ {
		_, body := a.get(path)
		rows := rowName.FindAllStringSubmatch(body, -1)
		if len(rows) > 50 || len(body) > 200_000 {
			t.Fatalf("%s has %d rows in %d bytes", path, len(rows), len(body))
		}
		for _, r := range rows {
			seen[r[1]]++
		}
		if pages == 0 && rows[0][1] != "local-production-svc-3119" {
			t.Errorf("the first one of the last is %s", rows[0][1])
		}
		path = ""
		if m := nextPage.FindStringSubmatch(body); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if len(seen) != 3120 || pages != 63 {
		t.Errorf("%d pages show %d of 3120 VIPs", pages, len(seen))
	}
	for page, first := range map[string]string{"0": "local-production-svc-0000", "-3": "local-production-svc-0000", "x": "local-production-svc-0000", "63": "local-production-svc-3100", "9999": "local-production-svc-3100"} {
		if _, body := a.get("/vips?page=" + page); rowName.FindStringSubmatch(body)[1] != first {
			t.Errorf("page %s begins with %s, want %s", page, rowName.FindStringSubmatch(body)[1], first)
		}
	}
}

func TestSearch(t *testing.T) {
	a := newAsker(t, false)
	a.hub.thousands(600)
	for name, tc := range map[string]struct{ query, says, first string }{
		"everything":         {"", "600 VIPs in the registry, 1 to 50 shown", "local-production-svc-0000"},
		"name":               {"?q=SVC-0042", "1 VIP of 600 found", "local-production-svc-0042"},
		"all-words":          {"?q=shop/svc42+0042", "1 VIP of 600 found", "local-production-svc-0042"},
		"address":            {"?q=" + address(600-77).String(), "1 VIP of 600 found", "local-production-svc-0077"},
		"port":               {"?q=8001/tcp", "300 VIPs of 600 found", "local-production-svc-0001"},
		"cluster":            {"?cluster=" + dead, "100 VIPs of 600 found", "local-production-svc-0005"},
		"state":              {"?state=pending", "6 VIPs of 600 found", "local-production-svc-0007"},
		"both":               {"?state=pending&cluster=ap-south-1", "2 VIPs of 600 found", "local-production-svc-0007"},
		"sorted-by-address":  {"?q=svc&sort=address", "600 VIPs of 600 found", "local-production-svc-0599"},
		"sorted-by-cluster":  {"?sort=-cluster", "600 VIPs in the registry", "local-production-svc-0005"},
		"spaces-are-nothing": {"?q=++", "600 VIPs in the registry", "local-production-svc-0000"},
		"nothing-found":      {"?q=nowhere", "0 VIPs of 600 found", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := a.get("/vips" + tc.query)
			first := ""
			if m := rowName.FindStringSubmatch(body); m != nil {
				first = m[1]
			}
			if code != 200 || first != tc.first || !strings.Contains(body, tc.says) {
				t.Errorf("%d; the first is %q, want %q; want %q in:\n%s", code, first, tc.first, tc.says, plainText(body)[:400])
			}
		})
	}
	if _, body := a.get("/vips?q=nowhere"); !strings.Contains(body, "Fewer words find more") {
		t.Error("an empty list does not say what to do")
	}
}

func TestServicesAreFiltered(t *testing.T) {
	a := newAsker(t, false)
	for query, says := range map[string]string{
		"":                          "40 federated services",
		"?q=payments":               "5 services of 40 found",
		"?state=healthy&q=data":     "2 services of 40 found",
		"?state=operated+on":        "2 services of 40 found",
		"?cluster=eu-west-1&q=cart": "1 service of 40 found",
		"?state=down":               "0 services of 40 found",
	} {
		if _, body := a.get("/services" + query); !strings.Contains(plainText(body), says) {
			t.Errorf("/services%s does not say %q", query, says)
		}
	}
}

var recordLink = regexp.MustCompile(`id="record-(\d+)"`)

// TestJournalPaging follows Older to the beginning, without a filter and with one that few records match.
func TestJournalPaging(t *testing.T) {
	cart := federation.Service("shop", "cart")
	for name, tc := range map[string]struct {
		query string
		is    func(operator.Record) bool
	}{
		"all":         {"", func(operator.Record) bool { return true }},
		"cluster":     {"?cluster=" + dead, func(r operator.Record) bool { return r.Cluster == dead }},
		"one-service": {"?service=" + cart.String(), func(r operator.Record) bool { return r.Service.ServiceID == cart || r.Service.IsZero() }},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsker(t, false)
			// Long ago there was a time in which nothing of interest happened.
			quiet := make([]operator.Record, 0, 3_000)
			for i := range 2_500 {
				quiet = append(quiet, operator.Record{At: start.AddDate(-1, 0, 0).Add(time.Duration(i) * time.Minute), Cluster: "ap-south-1", Service: serviceID(federation.Service("quiet", "one")), Reason: failover.Serving})
			}
			quiet[3] = operator.Record{At: quiet[3].At, Cluster: dead, Service: serviceID(cart), Reason: failover.Serving}
			if name == "all" {
				quiet = quiet[:100]
			}
			a.hub.records = append(quiet, a.hub.records...)
			want := map[string]bool{}
			for i := range a.hub.records {
				a.hub.records[i].Seq = uint64(i) + 1
				if tc.is(a.hub.records[i]) {
					want[strconv.Itoa(i+1)] = true
				}
			}
			got := map[string]bool{}
			last := uint64(1 << 60)
			pages := 0
			for path := "/journal" + tc.query; path != "" && pages < 100; pages++ {
				code, body := a.get(path)
				if code != 200 {
					t.Fatalf("GET %s: %d", path, code)
				}
				for _, m := range recordLink.FindAllStringSubmatch(body, -1) {
					seq, err := strconv.ParseUint(m[1], 10, 64)
					if err != nil || seq >= last || got[m[1]] {
						t.Fatalf("GET %s: record %s after %d", path, m[1], last)
					}
					last, got[m[1]] = seq, true
				}
				// Decisions that are one event stand together; all but the first have no number of their own.
				for i := range a.hub.records {
					if r := a.hub.records[i]; tc.is(r) && r.Reason == failover.ControlLostUnreachable && r.Cluster == dead {
						got[strconv.FormatUint(r.Seq, 10)] = true
					}
				}
				path = ""
				if m := nextPage.FindStringSubmatch(body); m != nil {
					path = strings.ReplaceAll(m[1], "&amp;", "&")
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("after %d pages (-want +got):\n%s", pages, diff)
			}
			if len(a.hub.journals) != pages {
				t.Errorf("%d pages asked %d times for records", pages, len(a.hub.journals))
			}
		})
	}
}

func TestMatrix(t *testing.T) {
	a := newAsker(t, false)
	_, body := a.get("/")
	text := plainText(body)
	for _, want := range []string{"5 of 6 clusters are healthy", "us-west-2 is not reached by 5 of 5 observers", "dial tcp 100.64.9.15:9901: i/o timeout", "3 behind", "for 12 min", "40 % left"} {
		if !strings.Contains(text, want) {
			t.Errorf("the overview does not say %q:\n%s", want, text)
		}
	}
	for _, want := range []string{`title="eu-west-1 does not reach us-west-2: dial tcp 100.64.9.15:9901: i/o timeout, just now"`, `title="us-west-2 reached eu-west-1 in 134 ms, but that was 1 min ago"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no cell has %s", want)
		}
	}
	a.hub.grow(244)
	if _, body = a.get("/"); len(body) > 400_000 || !strings.Contains(plainText(body), "each region of targets above") {
		t.Errorf("the matrix of 250 clusters has %d bytes, or is not by region", len(body))
	}
	if _, body = a.get("/?from=Europe&to=Africa"); !strings.Contains(body, "Only some regions are shown") || !strings.Contains(body, `data-key="from-cluster-03"`) || strings.Contains(body, `data-key="from-cluster-00"`) {
		t.Error("the matrix of Europe to Africa shows others")
	}
}

// TestChains says where the traffic of a consumer goes.
func TestChains(t *testing.T) {
	a := newAsker(t, false)
	_, body := a.get("/services/Service/shop/cart")
	text := plainText(body)
	for _, want := range []string{
		"It does not refer to this service, and so is told nothing of it.",
		"us-east-1 America us-east-1 100 % serving", // its own copy
		"us-west-2 America us-west-2 unhealthy, out of the hub's sight, and observers do not reach it · 100.64.2.6 · weight 100 us-east-1 100 %", // its region's
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
	// Where nobody is healthy, degraded ones are used.
	for i := range a.hub.services {
		for j := range a.hub.services[i].Exports {
			x := &a.hub.services[i].Exports[j]
			x.Verdict.Health = federation.Unhealthy
			if x.Cluster == "eu-west-1" || x.Cluster == "us-east-1" {
				x.Verdict.Health = federation.Degraded
			}
		}
	}
	_, body = a.get("/services/Service/shop/cart")
	if text := plainText(body); !strings.Contains(text, "eu-west-1 100 %") || !strings.Contains(text, "eu-west-1 50 %") && !strings.Contains(text, "eu-west-1 33 %") {
		t.Errorf("degraded endpoints take nothing:\n%s", text)
	}
}
