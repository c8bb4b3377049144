package console_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/console"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/web"
)

var (
	webapp = federation.Service("default", "webapp")
	door   = federation.Listener("default", "eg", "http")
)

// tailnet gives addresses in the order of asking.
type tailnet struct {
	mu    sync.Mutex
	given byte
}

func (p *tailnet) EnsureVIP(context.Context, federation.VIP) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given++
	return []netip.Addr{netip.AddrFrom4([4]byte{100, 100, 0, p.given})}, nil
}
func (*tailnet) DeleteVIP(context.Context, federation.VIP) error    { return nil }
func (*tailnet) ListVIPs(context.Context) ([]federation.VIP, error) { return nil, nil }
func (*tailnet) Refusal(federation.VIP, error) (federation.Notice, bool) {
	return federation.Notice{}, false
}

// direct hands requests to a handler without a connection.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	d.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// desk is a running hub of three clusters, its console, and a client that speaks to that as the tools do.
type desk struct {
	*testing.T
	*hub.Hub
	*console.Console
	client *operator.Client
}

// sit runs a test at a desk, in a bubble of time.
func sit(t *testing.T, test func(d *desk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db, err := bolt.Open(filepath.Join(t.TempDir(), "hub.db"), bolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		d := &desk{T: t}
		c := console.New(console.Options{
			Dismiss: d.dismiss,
			Journal: db, Now: time.Now, Version: "v1.2.3",
			Invite: func(_ context.Context, id federation.ClusterID) (operator.Invitation, error) {
				return operator.Invitation{Cluster: id, AuthKey: "key-of-" + string(id), Hub: "tailgate-hub:7443"}, nil
			},
		})
		h, err := hub.New(t.Context(), hub.Config{Store: db, Provider: &tailnet{}, Log: slog.New(slog.DiscardHandler), Changed: c.Changed})
		if err != nil {
			t.Fatal(err)
		}
		c.Hub = h
		d.Hub, d.Console, d.client = h, c, &operator.Client{
			Base: &url.URL{Scheme: "http", Host: "hub"},
			HTTP: &http.Client{Transport: direct{web.API(c, slog.New(slog.DiscardHandler))}},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		defer func() {
			cancel()
			if err := errors.Join(<-done, db.Close()); err != nil {
				t.Error(err)
			}
		}()
		d.must(h.Expect(ctx, nil))
		for i, id := range []federation.ClusterID{"c1", "c2", "c3"} {
			d.must(h.Joined(ctx, id, federation.Locality{Region: []string{"east", "east", "west"}[i]}))
			d.must(h.LinkState(ctx, id, true))
			d.must(h.APIState(ctx, id, true, "synced"))
			d.must(h.Interest(ctx, id, federation.Interest{All: true}))
			d.export(id, webapp, 2)
		}
		d.export("c3", door, 1)
		d.pass(time.Minute)
		test(d)
	})
}

func (d *desk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// pass lets the bubble's time pass, and everybody finish what they do then.
func (*desk) pass(t time.Duration) {
	time.Sleep(t) // no wall time: the bubble's clock jumps
	synctest.Wait()
}

func (d *desk) export(c federation.ClusterID, id federation.ServiceID, ready int) {
	d.Helper()
	d.must(d.SetExport(d.Context(), federation.Export{
		Key: federation.ExportKey{Cluster: c, Service: id}, Tailnet: "production", TailnetRef: "production",
		Ports: []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP, App: federation.AppHTTP}}, Ready: ready, Desired: ready,
	}))
}

func ref(id federation.ServiceID) operator.ServiceID { return operator.ServiceID{ServiceID: id} }

func TestStatusJoinsWhatLoopAndAdaptersKnow(t *testing.T) {
	sit(t, func(d *desk) {
		d.LinkChanged("c1", true, "")
		d.APIChanged("c1", false, "connection refused")
		d.Console.Joined("c1", operator.Versions{Spoke: "v1.2.2", Kubernetes: "v1.36.2"})
		d.Applied("c1", 5, 6)
		at := time.Now()
		d.Probed(operator.Probe{Observer: "c2", Target: "c1", At: at, Error: "connection timed out"})
		d.Probed(operator.Probe{Observer: "c1", Target: "c2", At: at, Reachable: true, RTT: 3 * time.Millisecond})
		d.Probed(operator.Probe{Observer: "left", Target: "c2", At: at})
		d.Forget("left")
		got, err := d.client.Status(d.Context())
		d.must(err)
		if got.Version != "v1.2.3" || got.Epoch != d.Epoch() || got.Rebuilding || got.VIPs["assigned"] != 4 || !got.Now.Equal(at) || len(got.Clusters) != 3 {
			d.Errorf("got %+v", got)
		}
		c1 := got.Clusters[0]
		want := operator.Cluster{
			ID: "c1", Region: "east", Link: operator.Signal{Up: true, Since: at}, API: operator.Signal{Since: at, Reason: "connection refused"},
			Applied: operator.Position{Epoch: 5, Version: 6}, Newest: operator.Position{Epoch: d.Epoch(), Version: c1.Newest.Version}, Exports: 1,
			Versions: operator.Versions{Spoke: "v1.2.2", Kubernetes: "v1.36.2"}, Verdict: operator.Verdict{Reason: failover.Serving, Share: 100},
		}
		if diff := cmp.Diff(want, c1); diff != "" || c1.Newest.Version == 0 {
			d.Errorf("c1 (-want +got)\n%s", diff)
		}
		probes := []operator.Probe{
			{Observer: "c1", Target: "c2", At: at, Reachable: true, RTT: 3 * time.Millisecond},
			{Observer: "c2", Target: "c1", At: at, Error: "connection timed out"},
		}
		if diff := cmp.Diff(probes, got.Probes); diff != "" {
			d.Errorf("probes (-want +got)\n%s", diff)
		}
	})
}

func TestServicesAndTheirEndpoints(t *testing.T) {
	sit(t, func(d *desk) {
		all, err := d.client.Services(d.Context())
		d.must(err)
		var ids []string
		for _, s := range all {
			ids = append(ids, s.ID.String())
		}
		if diff := cmp.Diff([]string{door.String(), webapp.String()}, ids); diff != "" {
			d.Errorf("services (-want +got)\n%s", diff)
		}
		s, err := d.client.Service(d.Context(), door) // its name has a slash
		d.must(err)
		if len(s.Exports) != 1 || s.Exports[0].Cluster != "c3" || len(s.Exports[0].Addresses) != 1 || s.Exports[0].Ready != 1 {
			d.Errorf("got %+v", s)
		}
		set, err := d.client.Endpoints(d.Context(), webapp, "c2")
		d.must(err)
		var order []federation.ClusterID
		for _, e := range set.Endpoints {
			order = append(order, e.Cluster)
		}
		if diff := cmp.Diff([]federation.ClusterID{"c2", "c1", "c3"}, order); diff != "" || set.Unreferenced {
			d.Errorf("the nearest come first (-want +got)\n%s", diff)
		}
		vips, err := d.client.VIPs(d.Context())
		d.must(err)
		if len(vips) != 4 || vips[0].State != "assigned" || vips[0].Service.IsZero() || len(vips[0].Ports) != 1 || vips[0].Ports[0].App != "http" {
			d.Errorf("got %+v", vips)
		}
	})
}

func TestWhatIsUnknownNamesWhatThereIs(t *testing.T) {
	sit(t, func(d *desk) {
		wish := func(c federation.ClusterID, id federation.ServiceID, mode failover.Mode) error {
			_, err := d.client.Operate(d.Context(), operator.Wish{Cluster: c, Service: ref(id), Mode: mode})
			return err
		}
		for name, tc := range map[string]struct {
			err  error
			is   error
			want []string
		}{
			"cluster":            {wish("c9", federation.ServiceID{}, failover.Drain), operator.ErrNotFound, []string{"c9", "c1, c2, c3"}},
			"service":            {second(d.client.Service(d.Context(), federation.Service("shop", "webapp"))), operator.ErrNotFound, []string{"Service/default/webapp"}},
			"namespace":          {second(d.client.Service(d.Context(), federation.Service("default", "web"))), operator.ErrNotFound, []string{"Service/default/webapp"}},
			"export":             {wish("c1", door, failover.Drain), operator.ErrNotFound, []string{"exported by c3"}},
			"consumer":           {second(d.client.Endpoints(d.Context(), webapp, "c9")), operator.ErrNotFound, []string{"c1, c2, c3"}},
			"pin-of-a-cluster":   {wish("c1", federation.ServiceID{}, failover.Pin), operator.ErrInvalid, []string{"name a service"}},
			"mode":               {wish("c1", webapp, "Explode"), operator.ErrInvalid, []string{"Drain, Cordon, Pin"}},
			"horizon":            {second(d.client.Forecast(d.Context(), operator.Wish{Cluster: "c1"}, 48*time.Hour)), operator.ErrInvalid, []string{"horizon", "24h"}},
			"bad-cluster-id":     {second(d.client.Invite(d.Context(), "No_Label")), operator.ErrInvalid, []string{"No_Label"}},
			"bad-journal-number": {second(d.client.Journal(d.Context(), operator.JournalQuery{Cluster: "No_Label"})), operator.ErrInvalid, []string{"cluster"}},
		} {
			if !errors.Is(tc.err, tc.is) {
				d.Errorf("%s: error %v, want %v", name, tc.err, tc.is)
				continue
			}
			for _, want := range tc.want {
				if !strings.Contains(tc.err.Error(), want) {
					d.Errorf("%s: %q does not say %q", name, tc.err, want)
				}
			}
		}
	})
}

// dismiss takes a cluster out of the loop as the hub does. The MemberCluster of c2 is not there any more.
func (d *desk) dismiss(ctx context.Context, id federation.ClusterID) (operator.Departure, bool, error) {
	if id == "c2" {
		return operator.Departure{}, false, d.RemoveCluster(ctx, id)
	}
	return operator.Departure{Devices: 3}, id == "c3", d.DismissCluster(ctx, id)
}

func TestAMemberLeaves(t *testing.T) {
	sit(t, func(d *desk) {
		before, err := d.client.VIPs(d.Context())
		if err != nil {
			d.Fatal(err)
		}
		var own []string
		for _, v := range before {
			if v.Cluster == "c3" {
				own = append(own, v.ServiceName)
			}
		}
		got, err := d.client.Leave(d.Context(), "c3")
		if want := (operator.Departure{Cluster: "c3", VIPs: own, Devices: 3}); err != nil || !cmp.Equal(want, got) || len(own) == 0 {
			d.Errorf("departure %+v, %v, want %+v", got, err, want)
		}
		synctest.Wait()
		status, err := d.client.Status(d.Context())
		if err != nil || len(status.Clusters) != 2 {
			d.Errorf("clusters %+v, %v", status.Clusters, err)
		}
		time.Sleep(time.Minute) // of the bubble
		after, err := d.client.VIPs(d.Context())
		if err != nil || slices.ContainsFunc(after, func(v operator.VIP) bool { return v.Cluster == "c3" }) {
			d.Errorf("VIPs %+v, %v", after, err)
		}
		for range 2 { // the second time, nothing is left of it but its VIPs
			got, err := d.client.Leave(d.Context(), "c2")
			if err != nil || len(got.VIPs) == 0 || !got.Resting || len(got.Left) != 1 || !strings.Contains(got.Left[0], "admin console") {
				d.Errorf("of one whose MemberCluster was deleted: %+v, %v", got, err)
			}
		}
		if _, err := d.client.Leave(d.Context(), "c9"); !errors.Is(err, operator.ErrNotFound) || !strings.Contains(err.Error(), "c1") {
			d.Errorf("of a cluster that nobody knows: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestADrainIsForecastTakenFollowedAndTakenBack walks an operator's way.
func TestADrainIsForecastTakenFollowedAndTakenBack(t *testing.T) {
	sit(t, func(d *desk) {
		w := operator.Wish{Cluster: "c1", Mode: failover.Drain, Ramp: 40 * time.Second}
		f, err := d.client.Forecast(d.Context(), w, time.Hour)
		d.must(err)
		if len(f.Decisions) == 0 || len(f.After) != 3 || len(f.Before) != 3 || len(f.Orphans) != 0 {
			d.Fatalf("forecast: %d decisions, %d and %d sets, orphans %v", len(f.Decisions), len(f.Before), len(f.After), f.Orphans)
		}
		if got := f.Decisions[len(f.Decisions)-1]; got.Reason != failover.Drained || got.Because == "" {
			d.Errorf("the forecast ends with %+v", got)
		}
		if ops, err := d.client.Operations(d.Context()); err != nil || len(ops) != 0 {
			d.Errorf("a forecast changed something: %v, %v", ops, err)
		}

		before, err := d.client.Wait(d.Context(), 0)
		d.must(err)
		op, err := d.client.Operate(console.As(d.Context(), "ada@example.com"), w)
		d.must(err)
		if op.Done || op.By != "ada@example.com" || op.Mode != failover.Drain {
			d.Errorf("got %+v", op)
		}
		if after, err := d.client.Wait(d.Context(), before); err != nil || after <= before {
			d.Errorf("the wish was no change: %d after %d, %v", after, before, err)
		}
		shares := map[uint8]bool{}
		for range 50 {
			ops, err := d.client.Operations(d.Context())
			d.must(err)
			if len(ops) != 1 || ops[0].By != "ada@example.com" {
				d.Fatalf("got %+v", ops)
			}
			shares[ops[0].Share] = true
			if ops[0].Done {
				break
			}
			d.pass(time.Second)
		}
		if len(shares) < 4 || !shares[0] || !shares[100] {
			d.Errorf("shares on the way: %v", shares)
		}
		set, err := d.client.Endpoints(d.Context(), webapp, "c2")
		d.must(err)
		for _, e := range set.Endpoints {
			if e.Cluster == "c1" && e.Health == federation.Healthy {
				d.Errorf("c1 still takes traffic: %+v", e)
			}
		}
		newest, err := d.client.Journal(d.Context(), operator.JournalQuery{Newest: true, Limit: 1, Cluster: "c1"})
		d.must(err)
		if len(newest) != 1 || newest[0].Reason != failover.Drained || !strings.Contains(newest[0].Because, "operator") {
			d.Errorf("newest %+v", newest)
		}

		_, err = d.client.Operate(d.Context(), operator.Wish{Cluster: "c1"})
		d.must(err)
		if ops, err := d.client.Operations(d.Context()); err != nil || len(ops) != 0 {
			d.Errorf("taken back, %v, %v are left", ops, err)
		}
	})
}

// TestAForecastNamesWhoIsLeftAlone drains the only cluster that has a service.
func TestAForecastNamesWhoIsLeftAlone(t *testing.T) {
	sit(t, func(d *desk) {
		solo := federation.Service("default", "solo")
		d.export("c3", solo, 1)
		d.pass(time.Minute)
		f, err := d.client.Forecast(d.Context(), operator.Wish{Cluster: "c3", Mode: failover.Drain}, time.Hour)
		d.must(err)
		if diff := cmp.Diff([]operator.ServiceID{ref(solo)}, f.Orphans); diff != "" {
			d.Errorf("orphans (-want +got)\n%s", diff)
		}
	})
}

// TestTheJournalIsReadBothWays compares with the whole of it.
func TestTheJournalIsReadBothWays(t *testing.T) {
	sit(t, func(d *desk) {
		for range 1300 { // more than one page, of which most is about c2
			for _, ready := range []int{0, 2} {
				d.export("c2", webapp, ready)
				d.pass(time.Minute)
			}
		}
		d.export("c3", webapp, 0)
		d.pass(time.Minute)
		all := func(q operator.JournalQuery) (out []operator.Record) {
			for {
				page, err := d.client.Journal(d.Context(), q)
				d.must(err)
				if out = append(out, page...); len(page) < 1000 {
					return out
				}
				q.After = page[len(page)-1].Seq
			}
		}
		whole := all(operator.JournalQuery{})
		if len(whole) < 2600 {
			d.Fatalf("%d records", len(whole))
		}
		for i, r := range whole {
			if r.Seq != uint64(i+1) || r.Because == "" {
				d.Fatalf("record %d is %+v", i, r)
			}
		}
		only := func(ok func(operator.Record) bool) (out []operator.Record) {
			for _, r := range whole {
				if ok(r) {
					out = append(out, r)
				}
			}
			return out
		}
		for name, tc := range map[string]struct {
			query operator.JournalQuery
			want  []operator.Record
		}{
			"newest":            {operator.JournalQuery{Newest: true, Limit: 7}, whole[len(whole)-7:]},
			"newest-of-a-few":   {operator.JournalQuery{Newest: true, Limit: 900, After: uint64(len(whole) - 5)}, whole[len(whole)-5:]},
			"first-of-a-far":    {operator.JournalQuery{Cluster: "c3"}, only(func(r operator.Record) bool { return r.Cluster == "c3" })},
			"newest-of-the-far": {operator.JournalQuery{Cluster: "c1", Newest: true}, only(func(r operator.Record) bool { return r.Cluster == "c1" })},
			"first-before":      {operator.JournalQuery{After: 90, Before: 101}, whole[90:100]},
			"newest-before":     {operator.JournalQuery{Newest: true, Limit: 3, Before: 2001}, whole[1997:2000]},
			"newest-between":    {operator.JournalQuery{Newest: true, After: 1499, Before: 1501}, whole[1499:1500]},
			"before-the-end":    {operator.JournalQuery{Newest: true, Limit: 2, Before: 1 << 60}, whole[len(whole)-2:]},
			"nothing-before":    {operator.JournalQuery{Newest: true, Before: 1}, nil},
			"of-a-service": {
				operator.JournalQuery{Service: door, Newest: true},
				only(func(r operator.Record) bool { return r.Service.IsZero() || r.Service.ServiceID == door }),
			},
		} {
			got, err := d.client.Journal(d.Context(), tc.query)
			d.must(err)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				d.Errorf("%s (-want +got)\n%s", name, diff)
			}
		}
	})
}

// shortened is a journal of which only the last thousand records are kept. It counts how often it is read.
type shortened struct{ reads int }

const oldest, newest = 1_000_001, 1_001_000

func (*shortened) Last(context.Context) (uint64, error) { return newest, nil }

func (s *shortened) Journal(_ context.Context, after uint64, limit int, _ federation.ServiceID) (out []ledger.Record, err error) {
	s.reads++
	for seq := max(after+1, oldest); seq <= newest && len(out) < limit; seq++ {
		out = append(out, ledger.Record{Seq: seq, Decision: failover.Decision{Subject: federation.Target{Cluster: "c1"}}})
	}
	return out, nil
}

// TestTheJournalIsNotReadWhereItIsNoMore: who looks for what is not there is not answered only after a million empty places.
func TestTheJournalIsNotReadWhereItIsNoMore(t *testing.T) {
	for name, q := range map[string]operator.JournalQuery{
		"from-the-end": {Newest: true, Cluster: "c2"},
		"from-within":  {Newest: true, Cluster: "c2", Before: oldest + 10},
		"from-before":  {Newest: true, Before: oldest},
	} {
		s := &shortened{}
		got, err := console.New(console.Options{Journal: s, Now: time.Now}).Journal(t.Context(), q)
		if err != nil || len(got) > 0 || s.reads > 2 {
			t.Errorf("%s: %d records, %v, after %d reads", name, len(got), err, s.reads)
		}
	}
}

// TestWaitEndsWhereNothingHappens: who asks over HTTP is answered before what is in between closes the connection.
func TestWaitEndsWhereNothingHappens(t *testing.T) {
	sit(t, func(d *desk) {
		now, err := d.client.Wait(d.Context(), 0)
		d.must(err)
		began := time.Now()
		again, err := d.client.Wait(d.Context(), now)
		if err != nil || again != now || time.Since(began) > 30*time.Second {
			d.Errorf("%d, %v after %s, want %d", again, err, time.Since(began), now)
		}
	})
}

// TestViewersLookAndAdminsAct goes through the guard.
func TestViewersLookAndAdminsAct(t *testing.T) {
	sit(t, func(d *desk) {
		people := map[string]web.Operator{"viewer": {Name: "vera"}, "admin": {Name: "ada", Admin: true}}
		guarded := web.Guard(func(r *http.Request) (web.Operator, error) {
			if o, ok := people[r.Header.Get("X-Test-Person")]; ok {
				return o, nil
			}
			return web.Operator{}, errors.New("the policy file gives no role")
		}, []string{"hub.example.ts.net"}, slog.New(slog.DiscardHandler), web.API(d.Console, slog.New(slog.DiscardHandler)))
		for _, tc := range []struct {
			person, method, host, site string
			code                       int
		}{
			{"nobody", "GET", "hub", "", 403}, {"viewer", "GET", "hub", "", 200}, {"admin", "GET", "hub", "", 200},
			{"nobody", "POST", "hub", "", 403}, {"viewer", "POST", "hub", "", 403}, {"admin", "POST", "hub", "", 200},
			{"admin", "POST", "hub", "cross-site", 403}, {"admin", "POST", "hub", "same-origin", 200},
			{"admin", "GET", "hub.example.ts.net", "", 200}, {"admin", "GET", "127.0.0.1:9471", "", 200}, {"admin", "GET", "[::1]:9471", "", 200},
			{"admin", "POST", "rebound.example.com", "same-origin", 421}, {"admin", "GET", "rebound.example.com", "", 421},
		} {
			path := "http://" + tc.host + "/api/v1/operations"
			req := httptest.NewRequestWithContext(d.Context(), tc.method, path, strings.NewReader(`{"cluster": "c2", "mode": "Cordon", "ramp": 0}`))
			req.Header.Set("X-Test-Person", tc.person)
			if tc.site != "" {
				req.Header.Set("Sec-Fetch-Site", tc.site)
			}
			answer := httptest.NewRecorder()
			guarded.ServeHTTP(answer, req)
			if answer.Code != tc.code {
				d.Errorf("%s %s %s %s: %d %s, want %d", tc.person, tc.method, tc.host, tc.site, answer.Code, answer.Body, tc.code)
			}
		}
		ops, err := d.client.Operations(d.Context())
		if err != nil || len(ops) != 1 || ops[0].By != "ada" || ops[0].Mode != failover.Cordon || !ops[0].Done {
			d.Errorf("got %+v, %v", ops, err)
		}
	})
}
