package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// ErrInvalid reports a policy that contradicts itself or says what cannot be done.
var ErrInvalid = errors.New("invalid policy")

// Validate returns nil, or an error that wraps [ErrInvalid] and says of everything that is wrong what to do about it, in
// the words of a FailoverPolicy's fields.
func (p Policy) Validate() error {
	var wrong findings
	for _, rule := range rules {
		rule(p, &wrong)
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(wrong, "; "))
}

// rules are asked in the order in which their findings are told.
var rules = []func(Policy, *findings){
	ruleName, ruleSelection, ruleServices, ruleLabels, ruleConsumers, ruleOrder, ruleWeights, ruleMinHealthy, ruleTimes,
}

// findings are what is wrong with a policy.
type findings []string

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

const (
	asLabel      = "use 1 to 63 lower case letters, digits and '-', starting and ending with a letter or digit (RFC 1123 label)"
	asSubdomain  = "use 1 to 253 lower case letters, digits, '-' and '.', each part between dots starting and ending with a letter or digit (RFC 1123 subdomain)"
	asLabelValue = "use at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit"
)

func ruleName(p Policy, f *findings) {
	if p.Name != "" && !isSubdomain(p.Name) {
		f.add("name %q: %s", p.Name, asSubdomain)
	}
}

// ruleSelection keeps apart the default, which counts for the rest, and the others, which count for something.
func ruleSelection(p Policy, f *findings) {
	switch {
	case p.Name == "" && !p.Select.empty():
		f.add("the federation's default counts for whatever no policy selects: leave services and consumers out of it, or give the policy a name")
	case p.Name != "" && p.Select.empty():
		f.add("it selects everything: set services or consumers, or make it the federation's default")
	}
}

func ruleServices(p Policy, f *findings) {
	for i, n := range p.Select.Namespaces {
		if !federation.IsLabel(n) {
			f.add("services.namespaces[%d] %q: %s", i, n, asLabel)
		}
	}
	for i, n := range p.Select.Names {
		if gateway, listener, ok := strings.Cut(n, "/"); ok {
			if !isSubdomain(gateway) || !isSubdomain(listener) {
				f.add("services.names[%d] %q: a listener is gateway/listener; in both parts, %s", i, n, asSubdomain)
			}
		} else if !federation.IsLabel(n) {
			f.add("services.names[%d] %q: %s", i, n, asLabel)
		}
	}
	once(f, "services.namespaces", p.Select.Namespaces)
	once(f, "services.names", p.Select.Names)
}

func ruleLabels(p Policy, f *findings) {
	keys := make([]string, 0, len(p.Select.Labels))
	for k := range p.Select.Labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !isLabelKey(k) {
			f.add("services.matchLabels %q: a label's key is a name of 1 to 63 letters, digits, '-', '_' and '.', with at most a DNS name and '/' before it", k)
		}
		if v := p.Select.Labels[k]; v != "" && !isLabelValue(v) {
			f.add("services.matchLabels[%s] %q: %s", k, v, asLabelValue)
		}
	}
}

func ruleConsumers(p Policy, f *findings) {
	for i, c := range p.Select.Consumers {
		if !federation.IsLabel(string(c)) {
			f.add("consumers[%d] %q: %s", i, c, asLabel)
		}
	}
	once(f, "consumers", p.Select.Consumers)
}

func ruleOrder(p Policy, f *findings) {
	for i, place := range p.Order {
		if !checkPlace(f, fmt.Sprintf("order[%d]", i), place) {
			continue
		}
		if at := slices.IndexFunc(p.Order[:i], func(before Place) bool { return before.takesIn(place) }); at >= 0 {
			f.add("order[%d], %s, is never reached: order[%d], %s, takes it in; leave it out, or put it before", i, place, at, p.Order[at])
		}
	}
}

func ruleWeights(p Policy, f *findings) {
	for i, w := range p.Weights {
		checkPlace(f, fmt.Sprintf("weights[%d]", i), w.Place)
		if w.Weight > MaxWeight {
			f.add("weights[%d].weight %d: set 0 to %d", i, w.Weight, MaxWeight)
		}
		if at := slices.IndexFunc(p.Weights[:i], func(before Weight) bool { return before.Place == w.Place }); at >= 0 {
			f.add("weights[%d] and weights[%d] are both of %s: leave one out", at, i, w.Place)
		}
	}
	if len(p.Weights) > 0 && !slices.ContainsFunc(p.Weights, func(w Weight) bool { return w.Weight > 0 }) {
		f.add("weights: not all may be 0: give at least one place a weight of 1 to %d, or leave weights out", MaxWeight)
	}
}

func ruleMinHealthy(p Policy, f *findings) {
	if p.MinHealthy < 1 || p.MinHealthy > MaxHealthy {
		f.add("minHealthyPercent %d: set 1 to %d", p.MinHealthy, MaxHealthy)
	}
}

func ruleTimes(p Policy, f *findings) {
	for _, t := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"grace", p.Grace, MinGrace}, {"failbackDelay", p.FailbackDelay, 0}, {"hold", p.Hold, 0}, {"ramp", p.Ramp, 0},
	} {
		if t.value < t.least || t.value > MaxTime {
			f.add("%s %s: set %s to %dh", t.name, t.value, t.least, MaxTime/time.Hour)
		}
	}
}

// checkPlace reports whether the place is valid, and finds what is wrong with it.
func checkPlace(f *findings, field string, p Place) bool {
	before := len(*f)
	switch {
	case p.Cluster != "" && (p.Region != "" || p.Zone != ""):
		f.add("%s: it names %s and where it lies: set either cluster, or region and if need be zone", field, Place{Cluster: p.Cluster})
	case p.Cluster == "" && p.Region == "" && p.Zone != "":
		f.add("%s: a zone lies in a region: set region too", field)
	case p == Place{}:
		f.add("%s: it names no place: set cluster or region", field)
	case p.Cluster != "" && !federation.IsLabel(string(p.Cluster)):
		f.add("%s.cluster %q: %s", field, p.Cluster, asLabel)
	case p.Region != "" && !isLabelValue(p.Region):
		f.add("%s.region %q: %s", field, p.Region, asLabelValue)
	case p.Zone != "" && !isLabelValue(p.Zone):
		f.add("%s.zone %q: %s", field, p.Zone, asLabelValue)
	}
	return len(*f) == before
}

// once finds what a list has twice.
func once[T ~string](f *findings, field string, list []T) {
	for i, v := range list {
		if at := slices.Index(list[:i], v); at >= 0 {
			f.add("%s[%d] and %s[%d] are both %q: leave one out", field, at, field, i, v)
		}
	}
}
