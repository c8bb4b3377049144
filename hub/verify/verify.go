// Package verify finds out whether an installation works, and where it does not: it looks at every hop between the hub and
// the answer of a service, and says of each what it is like, what is wrong and what to do.
//
// What is seen is a [Picture]; [Judge] makes findings of it, and asks nobody. A hop that cannot work because another one does
// not is not judged: the first finding that failed is where to begin.
package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Verdict is what a hop is found to be.
type Verdict string

// The verdicts, from good to bad; what was not looked at is neither.
const (
	// OK hops do what they should.
	OK Verdict = "ok"
	// Skipped hops cannot be judged, because of what is found before them.
	Skipped Verdict = "skipped"
	// Warning is for what works, but not as it should, or not for long.
	Warning Verdict = "warning"
	// Failed hops do not work.
	Failed Verdict = "failed"
)

// Finding is what is found of a hop.
type Finding struct {
	// Where is the hub or a member: its cluster id where that is known, else its context.
	Where string `json:"where"`
	// SeenFrom is the hub, or the context of the member that was looked at from its own side.
	SeenFrom string `json:"seenFrom"`
	// Hop is the part that was looked at.
	Hop     string  `json:"hop"`
	Verdict Verdict `json:"verdict"`
	// Detail is what was seen, Fix what to do if that is not as it should be.
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// The hops, in the order in which they depend on one another.
const (
	HopHub          = "hub"
	HopClock        = "clock"
	HopTailnet      = "tailnet"
	HopMember       = "member"
	HopLink         = "link"
	HopAPIServer    = "API server"
	HopProbes       = "probes"
	HopKinds        = "CRDs"
	HopEnvoyGateway = "Envoy Gateway"
	HopSettings     = "Envoy Gateway's settings"
	HopSpoke        = "spoke"
	HopProxies      = "proxies"
	HopGateway      = "gateway"
	HopRequests     = "requests"
)

// whereHub is where the findings of the hub are.
const whereHub = "hub"

// Judge says what is found in a picture: of the hub first, then of the members in their order.
func Judge(p Picture) []Finding {
	j := judge{Picture: p}
	j.clocks = offsets(p)
	j.hub()
	for i := range p.Members {
		j.member(&p.Members[i])
	}
	return j.findings
}

// Worst is the worst verdict among findings.
func Worst(all []Finding) Verdict {
	worst := OK
	for _, f := range all {
		if rank(f.Verdict) > rank(worst) {
			worst = f.Verdict
		}
	}
	return worst
}

func rank(v Verdict) int { return slices.Index([]Verdict{OK, Skipped, Warning, Failed}, v) }

// judge collects findings.
type judge struct {
	Picture

	clocks   []offset
	findings []Finding
}

// at is where the findings of a place go.
type at struct {
	*judge

	where, from string
}

func (a at) add(hop string, v Verdict, detail, fix string) {
	a.findings = append(a.findings, Finding{Where: a.where, SeenFrom: a.from, Hop: hop, Verdict: v, Detail: detail, Fix: fix})
}

func (a at) ok(hop, format string, args ...any) { a.add(hop, OK, fmt.Sprintf(format, args...), "") }
func (a at) failed(hop, detail, fix string)     { a.add(hop, Failed, detail, fix) }
func (a at) warning(hop, detail, fix string)    { a.add(hop, Warning, detail, fix) }
func (a at) skipped(hop, because string, more ...string) {
	for _, h := range append([]string{hop}, more...) {
		a.add(h, Skipped, because, "")
	}
}

// sentence is a message that begins like a sentence of its own.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	return cmp.Or(s, "no reason was given")
}
