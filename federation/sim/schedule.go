package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// Scenario is the federation of a seed: what it is made of before anything happens to it.
type Scenario struct {
	Seed     uint64
	Members  []Member
	Services []Service
	// Policies are what may count: the first does at the start.
	Policies []PolicySet
	// Quarantine is how long released VIPs rest. Pool has the hub give addresses, for want of Tailscale Services.
	Quarantine time.Duration
	Pool       bool
	// Storm is how long faults strike. Afterwards the federation has Calm to converge.
	Storm, Calm time.Duration
	// LoseStore has the store lost once more at the end, in the calm.
	LoseStore bool
}

// Member is a cluster of a scenario.
type Member struct {
	Cluster  federation.ClusterID
	Locality federation.Locality
	Skew     time.Duration
	Interest federation.Interest
}

// Service is a federated service of a scenario.
type Service struct {
	ID      federation.ServiceID
	Ports   []federation.Port
	Exports map[federation.ClusterID]Pods
	Labels  map[string]string
}

// Pods are those behind an export at the start.
type Pods struct {
	Ready, Desired int
	Federated      bool
}

// PolicySet are policies that count together.
type PolicySet struct {
	Fallback policy.Policy
	Named    []policy.Policy
}

// hubs are the names of the hubs: one leads, the other one may take over.
var hubs = [...]string{"hub-a", "hub-b"}

// adminAPI is the name of the tailnet's API.
const adminAPI = "admin"

// NewScenario returns the federation of a seed.
func NewScenario(seed uint64) Scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Scenario{
		Seed: seed, Quarantine: time.Hour, Pool: r.IntN(8) == 0, LoseStore: r.IntN(3) == 0,
		Storm: time.Duration(80+r.IntN(80)) * time.Second, Calm: calm,
	}
	if r.IntN(3) == 0 {
		s.Quarantine = time.Duration(70+r.IntN(30)) * time.Second
	}
	places := []federation.Locality{{Region: "eu", Zone: "a"}, {Region: "eu", Zone: "b"}, {Region: "us", Zone: "a"}, {Region: "us", Zone: "a"}, {}}
	for i := range 2 + r.IntN(4) {
		s.Members = append(s.Members, Member{
			Cluster: federation.ClusterID(fmt.Sprintf("c%d", i+1)), Locality: places[r.IntN(len(places))],
			Skew: time.Duration(r.IntN(4000)-2000) * time.Millisecond,
		})
	}
	for i := range 2 + r.IntN(5) {
		s.Services = append(s.Services, newService(r, i, s.Members))
	}
	for i := range s.Members {
		s.Members[i].Interest = interest(r, s.Services)
	}
	s.Policies = []PolicySet{
		{Fallback: policy.Default()}, quick(), ordered(s), weighted(s),
	}
	if r.IntN(2) == 0 {
		s.Policies[0] = s.Policies[1+r.IntN(3)]
	}
	return s
}

// newService makes the i-th service, which most members export. Two of the names clash, as they stand in two
// namespaces.
func newService(r *rand.Rand, i int, members []Member) Service {
	names := []federation.ServiceID{
		federation.Service("shop", "web"), federation.Service("blog", "web"), federation.Service("shop", "cart"),
		federation.Service("pay", "bank"), federation.Listener("shop", "edge", "https"), federation.Service("ops", "metrics"),
	}
	s := Service{
		ID: names[i], Exports: map[federation.ClusterID]Pods{},
		Ports:  []federation.Port{{Name: "http", Port: uint16(8080 + i), Protocol: federation.TCP}},
		Labels: map[string]string{"tier": fmt.Sprint(i % 2)},
	}
	asks := r.IntN(3) == 0
	for _, m := range members {
		if r.IntN(4) > 0 || len(s.Exports) == 0 && m.Cluster == members[len(members)-1].Cluster {
			desired := 1 + r.IntN(4)
			s.Exports[m.Cluster] = Pods{Ready: desired, Desired: desired, Federated: asks && r.IntN(4) > 0}
		}
	}
	return s
}

// interest returns what a member may refer to: all, or some.
func interest(r *rand.Rand, services []Service) federation.Interest {
	if r.IntN(2) == 0 {
		return federation.Interest{All: true}
	}
	var i federation.Interest
	for _, s := range services {
		if r.IntN(4) > 0 {
			i.Services = append(i.Services, s.ID)
		}
	}
	sortServices(i.Services)
	return i
}

// quick are policies under which everything is faster.
func quick() PolicySet {
	p := policy.Default()
	p.Times = policy.Times{Grace: 3 * time.Second, FailbackDelay: 2 * time.Second, Hold: 8 * time.Second, Ramp: 4 * time.Second}
	slow := policy.Policy{
		Name: "cart", Select: policy.Selector{Names: []string{"cart"}}, MinHealthy: 80,
		Times: policy.Times{Grace: 4 * time.Second, FailbackDelay: 6 * time.Second, Hold: 12 * time.Second},
	}
	return PolicySet{Fallback: p, Named: []policy.Policy{slow}}
}

// ordered are policies that name the clusters in their order, the last one first.
func ordered(s Scenario) PolicySet {
	p := policy.Policy{Name: "tier-one", Select: policy.Selector{Labels: map[string]string{"tier": "1"}}, MinHealthy: 50, Times: policy.Default().Times}
	for _, m := range slices.Backward(s.Members) {
		p.Order = append(p.Order, policy.Place{Cluster: m.Cluster})
	}
	return PolicySet{Fallback: policy.Default(), Named: []policy.Policy{p}}
}

// weighted are policies under which regions take different shares, and one consumer has its own.
func weighted(s Scenario) PolicySet {
	p := policy.Policy{
		Name: "web", Select: policy.Selector{Names: []string{"web"}}, MinHealthy: 100, Times: policy.Default().Times,
		Order:   []policy.Place{{Region: "eu"}, {Region: "us"}},
		Weights: []policy.Weight{{Place: policy.Place{Region: "eu"}, Weight: 3}, {Place: policy.Place{Region: "us"}, Weight: 1}},
	}
	own := policy.Policy{
		Name: "own", Select: policy.Selector{Consumers: []federation.ClusterID{s.Members[0].Cluster}}, MinHealthy: 50, Times: quick().Fallback.Times,
	}
	return PolicySet{Fallback: policy.Default(), Named: []policy.Policy{p, own}}
}

// NewFaults returns the faults that a seed has in store for its federation. They come in bursts, most of them are
// short, and each seed has some kinds only, so that faults meet in many ways.
func NewFaults(s Scenario) []Fault {
	g := &generator{Rand: rand.New(rand.NewPCG(s.Seed, 2)), s: s}
	var kinds []weightedKind
	for _, k := range mix {
		if k.always || g.IntN(10) < 7 {
			kinds = append(kinds, k)
		}
	}
	var out []Fault
	burst := true
	for at := settle; at < s.Storm; {
		length := time.Duration(10+g.IntN(25)) * time.Second
		gap := 150 + g.IntN(500) // of milliseconds, on average
		if !burst {
			length /= 2
		}
		for end := min(at+length, s.Storm); at < end; at += g.exp(gap) {
			if burst {
				out = append(out, g.fault(at, pick(g.Rand, kinds)))
			}
		}
		burst = !burst
	}
	return out
}

// settle is how long a federation has to come up before anything happens to it.
const settle = 8 * time.Second

// calm is how long a federation has to converge after the last fault. The longest waits: a VIP whose provisioning
// failed often is asked for again after up to a minute, a spoke that could not connect tries again after five seconds,
// a return waits for the hold time of 30 s and the failback delay of 10 s and ramps for 10 s.
const calm = 90 * time.Second

type weightedKind struct {
	kind   Kind
	weight int
	always bool
	// short and long are how long it lasts, in milliseconds; most are near short.
	short, long int
}

var mix = []weightedKind{
	{Cut, 10, true, 800, 30000}, {CutOneWay, 8, false, 800, 20000}, {Isolate, 4, false, 1500, 25000},
	{Flap, 6, false, 3000, 15000}, {Degrade, 8, false, 2000, 20000}, {Delay, 8, false, 2000, 20000},
	{PowerLoss, 5, true, 3000, 30000}, {SpokeCrash, 6, false, 500, 20000}, {LinkReset, 6, false, 0, 0},
	{HubCrash, 4, true, 300, 15000}, {StoreLost, 1, false, 5000, 9000}, {Takeover, 2, false, 3000, 30000},
	{Pause, 4, false, 300, 6000}, {Slow, 3, false, 2000, 10000}, {Skew, 3, false, 3000, 30000},
	{APIDown, 4, false, 2000, 25000}, {WatchLost, 3, false, 0, 0},
	{CommitFails, 2, false, 500, 2000}, {CommitForgot, 2, false, 500, 2000},
	{Throttle, 4, false, 2000, 20000}, {Broken, 3, false, 1000, 15000}, {AnswerLost, 4, false, 2000, 20000},
	{Ready, 16, true, 0, 0}, {Unexport, 6, false, 500, 120000}, {Federate, 2, false, 0, 0}, {Hosts, 2, false, 0, 0},
	{Refer, 2, false, 0, 0}, {Leave, 1, false, 2000, 20000}, {LeaveForGood, 2, false, 2000, 30000},
	{DrainIt, 3, false, 0, 0}, {CordonIt, 2, false, 0, 0}, {PinIt, 2, false, 0, 0}, {Undo, 6, false, 0, 0}, {Policies, 2, false, 0, 0},
}

// generator makes faults up.
type generator struct {
	*rand.Rand
	s Scenario
}

func pick(r *rand.Rand, kinds []weightedKind) weightedKind {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	n := r.IntN(sum)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	return kinds[0]
}

// exp returns a time from an exponential distribution, given its mean in milliseconds.
func (g *generator) exp(mean int) time.Duration {
	return time.Duration(min(g.ExpFloat64(), 5)*float64(mean)*float64(time.Millisecond)) + time.Millisecond
}

func (g *generator) member() string { return string(g.s.Members[g.IntN(len(g.s.Members))].Cluster) }

// pair returns two parties between which a path matters.
func (g *generator) pair() (a, b string) {
	switch a = g.member(); g.IntN(10) {
	case 0:
		return hubs[g.IntN(len(hubs))], adminAPI
	case 1, 2, 3:
		return a, hubs[min(1, g.IntN(6)/5)]
	}
	for b = g.member(); a == b; {
		b = g.member()
	}
	return a, b
}

// export returns an export that there is at the start.
func (g *generator) export() (cluster, service string, pods Pods) {
	s := g.s.Services[g.IntN(len(g.s.Services))]
	for {
		c := g.s.Members[g.IntN(len(g.s.Members))].Cluster
		if p, ok := s.Exports[c]; ok {
			return string(c), s.ID.String(), p
		}
	}
}

func (g *generator) fault(at time.Duration, k weightedKind) Fault {
	f := Fault{At: at, Kind: k.kind}
	if k.long > 0 {
		f.For = time.Duration(k.short)*time.Millisecond/2 + g.exp(k.short)
		if g.IntN(5) == 0 {
			f.For = time.Duration(k.short+g.IntN(k.long-k.short)) * time.Millisecond
		}
		f.For = min(f.For, max(g.s.Storm-at, time.Millisecond))
	}
	switch k.kind {
	case Cut, CutOneWay:
		f.A, f.B = g.pair()
		if g.IntN(2) == 0 {
			f.A, f.B = f.B, f.A
		}
	case Flap:
		f.A, f.B = g.pair()
		f.N = 100 + g.IntN(1500)
	case Degrade:
		f.A, f.B = g.pair()
		f.N = 5 + g.IntN(40)
	case Delay:
		f.A, f.B = g.pair()
		f.N = 50 + g.IntN(1500)
	case Slow, Pause, Skew:
		f.A = g.member()
		if g.IntN(3) == 0 {
			f.A = hubs[0]
		}
		switch k.kind {
		case Slow:
			f.N = 1 + g.IntN(15)
		case Skew:
			f.N = g.IntN(6000) - 3000
		}
	case Ready, Unexport, Federate:
		var pods Pods
		f.A, f.B, pods = g.export()
		if k.kind == Ready {
			f.N = []int{0, pods.Desired, pods.Desired, g.IntN(pods.Desired + 1)}[g.IntN(4)]
		}
	case DrainIt, CordonIt, Undo:
		if f.A = g.member(); g.IntN(3) > 0 {
			f.A, f.B, _ = g.export()
		}
		f.N = g.IntN(3) * 4 // seconds of a drain's ramp
	case PinIt:
		f.A, f.B, _ = g.export()
	case Policies:
		f.N = g.IntN(len(g.s.Policies))
	default:
		f.A = g.member()
		f.N = g.IntN(1 << 16)
	}
	return f
}
