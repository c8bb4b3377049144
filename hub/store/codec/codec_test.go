package codec_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

func generator(seed uint64, full bool) *storetest.Generator {
	return &storetest.Generator{Rand: rand.New(rand.NewPCG(seed, 0)), Full: full}
}

// encoded returns the objects of a state and of decisions, the first with the number 1.
func encoded(t *testing.T, s ledger.State, journal []failover.Decision) []codec.Object {
	t.Helper()
	out, err := codec.Objects(s)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range journal {
		o, err := codec.Decision(uint64(i+1), d)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// decoded returns what the objects are of.
func decoded(t *testing.T, objects []codec.Object) (ledger.State, []failover.Decision) {
	t.Helper()
	end := slices.IndexFunc(objects, func(o codec.Object) bool { return o.Kind == codec.Journal })
	if end < 0 {
		end = len(objects)
	}
	s, err := codec.State(objects[:end])
	if err != nil {
		t.Fatal(err)
	}
	var journal []failover.Decision
	for i, o := range objects[end:] {
		r, err := codec.Record(o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != uint64(i+1) {
			t.Fatalf("record %d has the number %d", i+1, r.Seq)
		}
		journal = append(journal, r.Decision)
	}
	return s, journal
}

// TestNoFieldIsForgotten gives every field of what is stored a value. It fails for a field that was added to a type of
// the core and not to the codec.
func TestNoFieldIsForgotten(t *testing.T) {
	g := generator(storetest.Seed(t), true)
	for range 50 {
		var m storetest.Model
		m.Commit(ledger.Batch{
			VIPs:     []vip.Change{{Entry: g.VIP()}},
			Exports:  keyed(g, func(x failover.Saved) federation.ExportKey { return x.Export.Key }),
			Clusters: keyed(g, func(c failover.SavedCluster) federation.ClusterID { return c.Cluster }),
			Members:  keyed(g, func(m ledger.Member) federation.ClusterID { return m.Cluster }),
			Policies: keyed(g, func(p policy.Policy) string { return p.Name }),
			Journal:  []failover.Decision{g.Decision()},
		})
		state := m.State()
		filled(t, "State", reflect.ValueOf(state))
		filled(t, "Decision", reflect.ValueOf(m.Journal[0]))
		got, journal := decoded(t, encoded(t, state, m.Journal))
		if d := storetest.Diff(state, got); d != "" || !reflect.DeepEqual(state, got) {
			t.Fatalf("state (-want +got)\n%s", d)
		}
		if d := storetest.Diff(m.Journal, journal); d != "" || !reflect.DeepEqual(m.Journal, journal) {
			t.Fatalf("decisions (-want +got)\n%s", d)
		}
	}
}

func keyed[K comparable, V any](g *storetest.Generator, key func(V) K) map[K]*V {
	v := new(V)
	g.Fill(v)
	return map[K]*V{key(*v): v}
}

// filled fails for a field that has its zero value: then the test above would not see whether it is stored.
func filled(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch {
	case v.IsZero():
		t.Fatalf("%s is not filled", path)
	case v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[netip.Addr]():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			filled(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			filled(t, path+"[]", v.Index(i))
		}
	}
}

// FuzzRoundTrip: what was encoded decodes to itself, and encodes to the same bytes again.
func FuzzRoundTrip(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		var m storetest.Model
		g := generator(seed, false)
		m.Commit(g.Batch(20))
		objects := encoded(t, m.State(), m.Journal)
		state, journal := decoded(t, objects)
		if d := storetest.Diff(m.State(), state); d != "" {
			t.Fatalf("state (-want +got)\n%s", d)
		}
		if d := storetest.Diff(m.Journal, journal); d != "" {
			t.Fatalf("decisions (-want +got)\n%s", d)
		}
		again := encoded(t, state, journal)
		if !slices.EqualFunc(objects, again, func(a, b codec.Object) bool { return a.Compare(b) == 0 && bytes.Equal(a.Value, b.Value) }) {
			t.Fatal("the same objects are other bytes")
		}
		for _, o := range objects {
			if err := o.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDecode: whatever stands under a key, it is refused by name or it is an object that can be stored again.
func FuzzDecode(f *testing.F) {
	var m storetest.Model
	m.Commit(generator(1, true).Batch(6))
	s, err := codec.Objects(m.State())
	if err != nil {
		f.Fatal(err)
	}
	for _, o := range s {
		f.Add(uint8(o.Kind), o.Key, o.Message())
	}
	record, err := codec.Decision(7, generator(1, true).Decision())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(record.Kind), record.Key, record.Message())
	f.Add(uint8(0), []byte("x"), []byte("y"))
	f.Add(uint8(9), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, kind uint8, key, message []byte) {
		raw := codec.Object{Kind: codec.Kind(kind), Key: key, Value: message}
		if err := raw.Check(); err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("%v is no ErrCorrupt", err)
		}
		o := raw.Sealed(message)
		if err := o.Check(); err != nil {
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), o.String()) {
				t.Fatalf("%v is no ErrCorrupt of %s", err, o)
			}
			return
		}
		again := stored(t, o)
		if again.Compare(o) != 0 {
			t.Fatalf("%s is stored as %s", o, again)
		}
		if err := again.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

// stored decodes an object and encodes it.
func stored(t *testing.T, o codec.Object) codec.Object {
	t.Helper()
	if o.Kind == codec.Journal {
		r, err := codec.Record(o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := codec.Decision(r.Seq, r.Decision)
		if err != nil {
			t.Fatalf("%s can be read but not stored: %v", o, err)
		}
		return again
	}
	s, err := codec.State([]codec.Object{o})
	if err != nil {
		t.Fatal(err)
	}
	again, err := codec.Objects(s)
	if err != nil || len(again) != 1 {
		t.Fatalf("%s can be read but not stored: %d objects, %v", o, len(again), err)
	}
	return again[0]
}

// TestEveryFlippedBitIsFound also passes a value off as that of another key and of another kind.
func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, o := range encoded(t, ledger.State{Members: []ledger.Member{{Cluster: "c1", Locality: federation.Locality{Region: "eu"}}}}, nil) {
		for i := range len(o.Value) * 8 {
			bad := o
			bad.Value = bytes.Clone(o.Value)
			bad.Value[i/8] ^= 1 << (i % 8)
			if _, err := bad.Sum(); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("bit %d: %v, want ErrCorrupt", i, err)
			}
		}
		for name, bad := range map[string]codec.Object{
			"another-key":  {Kind: o.Kind, Key: []byte("c2"), Value: o.Value},
			"another-kind": {Kind: codec.Cluster, Key: o.Key, Value: o.Value},
			"no-key":       {Kind: o.Kind, Value: o.Value},
			"no-value":     {Kind: o.Kind, Key: o.Key},
		} {
			if err := bad.Check(); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %v, want ErrCorrupt", name, err)
			}
		}
	}
}

// TestUnknownFieldsArePassedOver: a newer version of the same schema may have added them.
func TestUnknownFieldsArePassedOver(t *testing.T) {
	var m storetest.Model
	m.Commit(generator(3, true).Batch(5))
	objects := encoded(t, m.State(), m.Journal)
	for i, o := range objects {
		objects[i] = o.Sealed(append(o.Message(), 0xfa, 0x7f, 3, 'n', 'e', 'w')) // field 2047, 3 bytes
	}
	state, journal := decoded(t, objects)
	if d := storetest.Diff(m.State(), state); d != "" {
		t.Errorf("state (-want +got)\n%s", d)
	}
	if d := storetest.Diff(m.Journal, journal); d != "" {
		t.Errorf("decisions (-want +got)\n%s", d)
	}
}

// TestWhatMakesNoSenseIsNotStored: what could not be read back is refused before, by the name of its object.
func TestWhatMakesNoSenseIsNotStored(t *testing.T) {
	web := federation.Service("shop", "web")
	key := federation.ExportKey{Cluster: "c1", Service: web}
	entry := func(change func(*vip.Entry)) ledger.Batch {
		e := vip.Entry{VIP: federation.VIP{Owner: key, Name: "web", ServiceName: "web-c1"}}
		change(&e)
		return ledger.Batch{VIPs: []vip.Change{{Entry: e}}}
	}
	saved := func(change func(*failover.Saved)) ledger.Batch {
		s := failover.Saved{Export: federation.Export{Key: key}}
		change(&s)
		return ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{s.Export.Key: &s}}
	}
	for name, tc := range map[string]struct {
		batch ledger.Batch
		want  string
	}{
		"vip-without-name":      {entry(func(e *vip.Entry) { e.ServiceName = "" }), `vips: the object has no name`},
		"vip-of-bad-cluster":    {entry(func(e *vip.Entry) { e.Owner.Cluster = "C 1" }), `vips "web-c1": invalid cluster id "C 1"`},
		"vip-of-nothing":        {entry(func(e *vip.Entry) { e.Owner = federation.ExportKey{} }), `want a namespace and a name`},
		"vip-of-unknown-kind":   {entry(func(e *vip.Entry) { e.Owner.Service.Kind = "Pod" }), `unknown kind of service Pod`},
		"vip-with-bad-addr":     {entry(func(e *vip.Entry) { e.Addrs = []netip.Addr{{}} }), `address "invalid IP"`},
		"vip-with-zone":         {entry(func(e *vip.Entry) { e.Addrs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }), `without a zone`},
		"vip-with-port-0":       {entry(func(e *vip.Entry) { e.Ports = []federation.Port{{Name: "p", Protocol: federation.TCP}} }), `port "p" has the number 0`},
		"vip-with-sctp":         {entry(func(e *vip.Entry) { e.Ports = []federation.Port{{Port: 1, Protocol: "SCTP"}} }), `unknown protocol SCTP`},
		"vip-of-the-year-3000":  {entry(func(e *vip.Entry) { e.ReleasedAt = time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC) }), `want a year from 1678 to 2262`},
		"vip-not-utf8":          {entry(func(e *vip.Entry) { e.Tailnet = "\xff" }), `UTF-8`},
		"deleted-without-name":  {ledger.Batch{VIPs: []vip.Change{{Delete: true}}}, `delete from vips: the object has no name`},
		"export-of-no-cluster":  {saved(func(s *failover.Saved) { s.Export.Key.Cluster = "" }), `invalid cluster id ""`},
		"namespace-with-slash":  {saved(func(s *failover.Saved) { s.Export.Key.Service.Namespace = "a/b" }), `want a namespace and a name`},
		"unknown-mode":          {saved(func(s *failover.Saved) { s.Mode = "Melt" }), `unknown mode Melt`},
		"reason-of-words":       {saved(func(s *failover.Saved) { s.Cells = []failover.SavedCell{{Cell: failover.Cell{Reason: "it broke"}}} }), `reason "it broke"`},
		"export-under-other":    {ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{{Cluster: "c2", Service: web}: {Export: federation.Export{Key: key}}}}, `it is of "c1/Service/shop/web"`},
		"cluster-under-other":   {ledger.Batch{Clusters: map[federation.ClusterID]*failover.SavedCluster{"c2": {Cluster: "c1"}}}, `clusters "c2": it is of "c1"`},
		"member-under-other":    {ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"c2": {Cluster: "c1"}}}, `members "c2": it is of "c1"`},
		"policy-under-other":    {ledger.Batch{Policies: map[string]*policy.Policy{"a": {Name: "b"}}}, `policies "a": it is of "b"`},
		"member-of-bad-cluster": {ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"-": {Cluster: "-"}}}, `invalid cluster id "-"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := codec.Changes(tc.batch)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, err %v, want %q", got, err, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		seq  uint64
		d    failover.Decision
		want string
	}{
		"no-number":      {0, failover.Decision{Subject: federation.Target{Cluster: "c1"}}, "counts from 1"},
		"no-subject":     {1, failover.Decision{}, `journal 1: invalid cluster id ""`},
		"unknown-health": {1, failover.Decision{Subject: federation.Target{Cluster: "c1"}, To: 9}, "unknown health Health(9)"},
		"bad-observer": {1, failover.Decision{Subject: federation.Target{Cluster: "c1"}, Inputs: failover.Inputs{Votes: failover.Votes{Failing: []federation.ClusterID{"C"}}}},
			`invalid cluster id "C"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := codec.Decision(tc.seq, tc.d); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err %v, want %q", err, tc.want)
			}
		})
	}
}

// TestTheLastChangeCounts: a batch may change an object twice.
func TestTheLastChangeCounts(t *testing.T) {
	e := generator(1, true).VIP()
	later := e
	later.Tailnet = "other"
	for name, tc := range map[string]struct {
		changes []vip.Change
		deleted bool
	}{
		"put-put":    {[]vip.Change{{Entry: e}, {Entry: later}}, false},
		"delete-put": {[]vip.Change{{Entry: e, Delete: true}, {Entry: later}}, false},
		"put-delete": {[]vip.Change{{Entry: later}, {Entry: e, Delete: true}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := codec.Changes(ledger.Batch{VIPs: tc.changes})
			if err != nil || len(got) != 1 {
				t.Fatalf("%d changes, err %v", len(got), err)
			}
			if tc.deleted {
				if got[0].Value != nil {
					t.Error("it is not deleted")
				}
				return
			}
			s, err := codec.State(got)
			if d := storetest.Diff([]vip.Entry{later}, s.VIPs); err != nil || d != "" {
				t.Errorf("err %v (-want +got)\n%s", err, d)
			}
		})
	}
}

func TestRecordsAreNoState(t *testing.T) {
	o, err := codec.Decision(3, generator(1, true).Decision())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := codec.State([]codec.Object{o}); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "journal 3: it is no part of a state") {
		t.Errorf("State: %v", err)
	}
}
