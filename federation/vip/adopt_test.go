package vip_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

func found(cluster federation.ClusterID, name string, given ...string) federation.VIP {
	x := export(cluster, webapp, 80)
	v := federation.VIP{Owner: x.Key, Name: name, ServiceName: name + "-" + string(cluster), Tailnet: "production", Ports: x.Ports}
	for _, s := range given {
		v.Addrs = append(v.Addrs, ip(s))
	}
	return v
}

func TestAdoptKeepsWhatTheTailnetHas(t *testing.T) {
	v := found("c1", "old", "100.100.0.7")
	r := vip.New(vip.Options{Quarantine: quarantine, Epoch: 2})
	for range 2 { // the second time it is known
		changes, err := r.PlanAdopt(v, start)
		if err != nil {
			t.Fatal(err)
		}
		r.Apply(changes)
	}
	e, _ := r.Get(v.Owner)
	if d := cmp.Diff(vip.Entry{VIP: v, ReleasedAt: start}, e, addrs); d != "" {
		t.Errorf("adopted (-want +got):\n%s", d)
	}
	if at, ok := r.Deadline(); !ok || !at.Equal(start.Add(quarantine)) {
		t.Errorf("it rests until %v, %v", at, ok)
	}
	got := claim(t, r, export("c1", webapp, 80))
	if d := cmp.Diff(vip.Entry{VIP: v, Epoch: 2}, got, addrs); d != "" {
		t.Errorf("claimed (-want +got):\n%s", d)
	}
	check(t, r)
}

func TestAdoptAfterTheClaim(t *testing.T) {
	for name, tc := range map[string]struct {
		found federation.VIP
		want  string
	}{
		"of-the-same-name": {found("c1", "local-production-webapp", "100.100.0.7", "fd7a::7"), "local-production-webapp-c1"},
		"of-another-name":  {found("c1", "old", "fd7a::7", "100.100.0.7"), "old-c1"},
	} {
		for _, released := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := vip.New(vip.Options{Quarantine: quarantine, Epoch: 5})
				x := export("c1", webapp, 81)
				was := claim(t, r, x)
				if released {
					r.Apply(r.PlanRelease(x.Key, start))
				}
				changes, err := r.PlanAdopt(tc.found, start.Add(time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				r.Apply(changes)
				e, _ := r.Get(x.Key)
				want := vip.Entry{VIP: was.VIP, Epoch: 5}
				want.Name, want.ServiceName, want.Addrs = tc.found.Name, tc.want, []netip.Addr{ip("100.100.0.7"), ip("fd7a::7")}
				if released {
					want.ReleasedAt = start
				}
				if d := cmp.Diff(want, e, addrs); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				if r.Len() != 1 {
					t.Errorf("%d entries, want one", r.Len())
				}
				check(t, r)
			})
		}
	}
}

func TestAdoptTakesNothingFromAnybody(t *testing.T) {
	mine := found("c1", "mine", "100.100.0.1")
	claimed := export("c9", webapp, 80)
	invalid := func(change func(*federation.VIP)) federation.VIP {
		v := found("c2", "other", "100.100.0.2")
		change(&v)
		return v
	}
	for name, tc := range map[string]struct {
		found federation.VIP
		want  error
		words []string
	}{
		"address-of-another":         {found("c2", "other", "100.100.0.1"), vip.ErrAddressTaken, []string{"100.100.0.1", "mine-c1", "delete svc:other-c2"}},
		"address-for-a-claim":        {found("c9", "other", "100.100.0.1"), vip.ErrAddressTaken, []string{"adopt other-c9"}},
		"name-of-another":            {invalid(func(v *federation.VIP) { v.ServiceName = "mine-c1" }), vip.ErrNameTaken, []string{"c1/Service", "c2/Service", "delete svc:mine-c1"}},
		"owner-has-another":          {found("c1", "second", "100.100.0.3"), vip.ErrNameTaken, []string{"mine-c1", "delete svc:second-c1"}},
		"owner-has-other-addresses":  {found("c1", "mine", "100.100.0.3"), vip.ErrAddressChanged, []string{"100.100.0.1", "100.100.0.3"}},
		"no-name":                    {invalid(func(v *federation.VIP) { v.Name = "" }), vip.ErrInvalid, []string{"other-c2"}},
		"service-name-is-no-label":   {invalid(func(v *federation.VIP) { v.ServiceName = "a.b" }), vip.ErrInvalid, []string{"a.b"}},
		"owner-is-no-service":        {invalid(func(v *federation.VIP) { v.Owner.Service.Kind = "Pod" }), vip.ErrInvalid, []string{"Pod"}},
		"owner-of-no-cluster":        {invalid(func(v *federation.VIP) { v.Owner.Cluster = "C2" }), vip.ErrInvalid, []string{"C2"}},
		"address-that-cannot-be-one": {invalid(func(v *federation.VIP) { v.Addrs = []netip.Addr{{}} }), vip.ErrInvalid, []string{"other-c2"}},
		"known-without-addresses":    {found("c1", "mine"), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{Quarantine: quarantine})
			changes, err := r.PlanAdopt(mine, start)
			if err != nil {
				t.Fatal(err)
			}
			r.Apply(changes)
			claim(t, r, claimed)
			changes, err = r.PlanAdopt(tc.found, start)
			if len(changes) > 0 {
				t.Errorf("plans %v", changes)
			}
			if tc.want == nil && err != nil {
				t.Error(err)
			} else if tc.want != nil {
				wantError(t, name, err, tc.want, tc.words...)
			}
		})
	}
}

func TestAdoptedNamesAreClashes(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	for _, v := range []federation.VIP{
		{Owner: federation.ExportKey{Cluster: "c1", Service: federation.Service("x", "y")}, Name: "local-production-webapp", ServiceName: "local-production-webapp-c1"},
		{Owner: federation.ExportKey{Service: another}, Name: "federated-production-webapp", ServiceName: "federated-production-webapp"},
	} {
		changes, err := r.PlanAdopt(v, start)
		if err != nil {
			t.Fatal(err)
		}
		r.Apply(changes)
	}
	if e := claim(t, r, export("c1", webapp, 80)); e.ServiceName != "local-production-default-webapp-c1" {
		t.Errorf("claimed as %q", e.ServiceName)
	}
	changes, err := r.PlanClaimFederated(webapp, []federation.Export{sharing("c1", webapp, "production", port("", 80, federation.TCP))})
	if err != nil || changes[0].Entry.ServiceName != "federated-production-default-webapp" {
		t.Errorf("federated: %v, %v", changes, err)
	}
	check(t, r)
}
