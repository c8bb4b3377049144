package sim

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

var (
	errThrottled = errors.New("429 too many requests")
	errBroken    = errors.New("500 internal server error")
	errNoAnswer  = errors.New("no answer in time")
	errForeign   = errors.New("the Tailscale Service belongs to somebody else")
)

// adminTimeout is how long a hub waits for an answer of the tailnet's API.
const adminTimeout = 5 * time.Second

// tailnet is the tailnet's API with its VIP services. It answers as the adapter in hub/tailnet does.
type tailnet struct {
	w        *world
	services map[string]federation.VIP
	next     netip.Addr
	// throttled, broken and mute count the faults that hold now.
	throttled, broken, mute int
}

func newTailnet(w *world) *tailnet {
	return &tailnet{w: w, services: map[string]federation.VIP{}, next: netip.MustParseAddr("100.100.0.1")}
}

// strike makes a fault of the API happen and returns its end.
func (t *tailnet) strike(k Kind) func() {
	counter := map[Kind]*int{Throttle: &t.throttled, Broken: &t.broken, AnswerLost: &t.mute}[k]
	*counter++
	return func() { *counter-- }
}

// answer is what a hub gets for a request.
type answer struct {
	addrs []netip.Addr
	vips  []federation.VIP
	err   error
}

// ask sends a request of a hub. It is answered once: by the API, or by the timeout.
func (t *tailnet) ask(h *hub, do func() answer, then func(answer)) {
	answered := false
	once := func(a answer) {
		if !answered {
			answered = true
			then(a)
		}
	}
	t.w.push(t.w.now+adminTimeout, &h.party, func() { once(answer{err: errNoAnswer}) })
	t.w.net.datagram(h.name, adminAPI, nil, func() {
		a := t.serve(do)
		if t.mute > 0 {
			t.w.cov.count(TopicFault, "admin: answer lost after it took effect")
			return
		}
		t.w.net.datagram(adminAPI, h.name, &h.party, func() { once(a) })
	})
}

func (t *tailnet) serve(do func() answer) answer {
	switch {
	case t.throttled > 0:
		t.w.cov.count(TopicFault, "admin: 429")
		return answer{err: errThrottled}
	case t.broken > 0:
		t.w.cov.count(TopicFault, "admin: 500")
		return answer{err: errBroken}
	}
	a := do()
	t.w.check.tailnetChanged()
	return a
}

// ensure makes a VIP or brings its ports in line, and returns its addresses.
func (t *tailnet) ensure(v federation.VIP) answer {
	was, ok := t.services[v.ServiceName]
	switch {
	case ok && was.Owner != v.Owner:
		t.w.cov.count(TopicRefused, "tailnet: the service is of another export")
		return answer{err: fmt.Errorf("%s: %w: it is of %s, not of %s", v.ServiceName, errForeign, was.Owner, v.Owner)}
	case ok:
		v.Addrs = was.Addrs
	case len(v.Addrs) == 0:
		v.Addrs = []netip.Addr{t.give()}
	default:
		for _, other := range t.services {
			if slices.Contains(other.Addrs, v.Addrs[0]) {
				return answer{err: fmt.Errorf("%s: address %s is taken", v.ServiceName, v.Addrs[0])}
			}
		}
	}
	v.Ports = slices.Clone(v.Ports)
	t.services[v.ServiceName] = v
	return answer{addrs: v.Addrs}
}

// give returns an address that was never given.
func (t *tailnet) give() netip.Addr {
	a := t.next
	if !t.w.parts.AddressTwice(t.w.now) {
		t.next = a.Next()
	}
	return a
}

// remove deletes a VIP; one that is gone is no error.
func (t *tailnet) remove(v federation.VIP) answer {
	delete(t.services, v.ServiceName)
	return answer{}
}

// list returns all VIPs, sorted.
func (t *tailnet) list() answer {
	var a answer
	for _, name := range t.names() {
		a.vips = append(a.vips, t.services[name])
	}
	return a
}

// names are those of all VIPs, sorted.
func (t *tailnet) names() []string { return slices.Sorted(maps.Keys(t.services)) }
