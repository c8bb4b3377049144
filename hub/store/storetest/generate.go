package storetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Generator makes objects that a store must keep. They make sense field by field, not as a whole.
type Generator struct {
	*rand.Rand
	// Full leaves no field at its zero value, so that a test which compares sees one that was forgotten.
	Full bool
	// Clusters and Services are how many of them there are, 4 and 8 by default: few of them meet again.
	Clusters, Services int
}

// Fill gives every field of what into points to a value, whatever fields there are. It panics for a field of a type
// that it does not know.
func (g *Generator) Fill(into any) { g.fill(reflect.ValueOf(into).Elem()) }

func (g *Generator) fill(v reflect.Value) {
	if made := g.word(v.Type()); made.IsValid() {
		v.Set(made)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Type().Field(i).IsExported() {
				panic(fmt.Sprintf("storetest: give Generator a word for %v", v.Type()))
			}
			g.fill(v.Field(i))
		}
	case reflect.Slice:
		if n := g.count(); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				g.fill(v.Index(i))
			}
		}
	case reflect.Map:
		if n := g.count(); n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				g.fill(key)
				g.fill(value)
				v.SetMapIndex(key, value)
			}
		}
	default:
		g.number(v)
	}
}

// number fills a value that is not made of others.
func (g *Generator) number(v reflect.Value) {
	one := g.least()
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(g.Full || g.IntN(2) == 0)
	case reflect.String:
		v.SetString(g.text())
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(one) + g.Int64N(1<<g.IntN(60)))
		if g.IntN(4) == 0 {
			v.SetInt(-v.Int())
		}
	case reflect.Uint8:
		v.SetUint(uint64(one + g.IntN(100)))
	case reflect.Uint16:
		v.SetUint(uint64(1 + g.IntN(65535)))
	case reflect.Uint32:
		v.SetUint(uint64(one + g.IntN(1000)))
	case reflect.Uint64:
		v.SetUint(uint64(one) + g.Uint64N(1<<g.IntN(63)))
	default:
		panic(fmt.Sprintf("storetest: give Generator a case for %v", v.Type()))
	}
}

// word returns a value of a type that has its own rules, or nothing.
func (g *Generator) word(t reflect.Type) reflect.Value {
	var v any
	switch t {
	case reflect.TypeFor[federation.ClusterID]():
		v = g.Cluster()
	case reflect.TypeFor[federation.ServiceID]():
		v = g.Service()
	case reflect.TypeFor[federation.Protocol]():
		v = pick(g, 0, federation.TCP, federation.UDP)
	case reflect.TypeFor[federation.AppProtocol]():
		v = federation.AppProtocol(g.least() + g.IntN(int(federation.AppTCP)+1-g.least()))
	case reflect.TypeFor[federation.Health]():
		v = pick(g, g.least(), federation.Healthy, federation.Degraded, federation.Unhealthy)
	case reflect.TypeFor[failover.Mode]():
		v = pick(g, g.least(), failover.Normal, failover.Drain, failover.Cordon, failover.Pin)
	case reflect.TypeFor[failover.Reason]():
		v = pick(g, g.least(), "", failover.Serving, failover.NoReadyEndpoints, failover.UnreachableByQuorum, failover.Drained)
	case reflect.TypeFor[time.Time]():
		v = g.Time()
	case reflect.TypeFor[netip.Addr]():
		v = g.addr()
	default:
		return reflect.Value{}
	}
	return reflect.ValueOf(v)
}

// least is the first choice that is not the zero value, if that is wanted.
func (g *Generator) least() int {
	if g.Full {
		return 1
	}
	return 0
}

func (g *Generator) count() int { return g.least() + g.IntN(3) }

func pick[T any](g *Generator, from int, all ...T) T { return all[from+g.IntN(len(all)-from)] }

// Cluster returns one of the clusters.
func (g *Generator) Cluster() federation.ClusterID {
	n := g.Clusters
	if n == 0 {
		n = 4
	}
	return federation.ClusterID(fmt.Sprintf("cluster-%d", g.IntN(n)))
}

// Service returns one of the services.
func (g *Generator) Service() federation.ServiceID {
	n := g.Services
	if n == 0 {
		n = 8
	}
	if i := g.IntN(n); i%4 > 0 {
		return federation.Service("shop", fmt.Sprintf("web-%d", i))
	}
	return federation.Listener("infra", "gateway", fmt.Sprintf("http-%d", g.IntN(n)))
}

// Time returns a time of this century, or the zero time.
func (g *Generator) Time() time.Time {
	if !g.Full && g.IntN(3) == 0 {
		return time.Time{}
	}
	return time.Unix(978_307_200+g.Int64N(3_000_000_000), g.Int64N(1_000_000_000)).UTC()
}

func (g *Generator) text() string {
	if !g.Full && g.IntN(3) == 0 {
		return ""
	}
	return pick(g, 0, "production", "ts-prod", "eu-west-1", "b", "größe", "main/http", "10.0.0.1:80") + fmt.Sprint(g.IntN(10))
}

func (g *Generator) addr() netip.Addr {
	if g.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{100, 64 + byte(g.IntN(64)), byte(g.IntN(256)), byte(g.IntN(256))})
	}
	return netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 15: byte(g.IntN(256))})
}

// Batch returns a batch of up to that many changes of each kind, deletions among them, and as many decisions.
func (g *Generator) Batch(size int) ledger.Batch {
	b := ledger.Batch{
		Exports: map[federation.ExportKey]*failover.Saved{}, Clusters: map[federation.ClusterID]*failover.SavedCluster{},
		Members: map[federation.ClusterID]*ledger.Member{}, Policies: map[string]*policy.Policy{},
	}
	for range g.IntN(size + 1) {
		b.VIPs = append(b.VIPs, vip.Change{Entry: g.VIP(), Delete: g.IntN(4) == 0})
	}
	for range g.IntN(size + 1) {
		x := made[failover.Saved](g)
		b.Exports[x.Export.Key] = unless(g, x)
	}
	for range g.IntN(size + 1) {
		c := made[failover.SavedCluster](g)
		b.Clusters[c.Cluster] = unless(g, c)
	}
	for range g.IntN(size + 1) {
		m := made[ledger.Member](g)
		b.Members[m.Cluster] = unless(g, m)
	}
	for range g.IntN(size + 1) {
		p := made[policy.Policy](g)
		b.Policies[p.Name] = unless(g, p)
	}
	for range g.IntN(size + 1) {
		b.Journal = append(b.Journal, g.Decision())
	}
	return b
}

// VIP returns an entry; one in four is of a federated service.
func (g *Generator) VIP() vip.Entry {
	e := made[vip.Entry](g)
	if !g.Full && g.IntN(4) == 0 {
		e.Owner.Cluster = ""
	}
	e.ServiceName = fmt.Sprintf("local-production-%d-%s", g.IntN(32), g.Cluster())
	return e
}

// Decision returns a decision; one in four is about a whole cluster.
func (g *Generator) Decision() failover.Decision {
	d := made[failover.Decision](g)
	if !g.Full && g.IntN(4) == 0 {
		d.Subject.Service = federation.ServiceID{}
	}
	if !g.Full && g.IntN(4) > 0 {
		d.Consumer = ""
	}
	if d.At.IsZero() {
		d.At = time.Unix(1_800_000_000, 0).UTC()
	}
	return d
}

func made[T any](g *Generator) T {
	var v T
	g.Fill(&v)
	return v
}

// unless returns nothing in one of four cases.
func unless[T any](g *Generator, v T) *T {
	if g.IntN(4) == 0 {
		return nil
	}
	return &v
}
