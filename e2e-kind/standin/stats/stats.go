// Package stats keeps the Envoy stand-in's counters and gauges under Envoy's names and prints them in the formats
// of Envoy's admin interface. Test equipment, never part of the product.
package stats

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Value is a counter or a gauge.
type Value struct {
	scope, name, stat string
	gauge             bool
	n                 atomic.Int64
}

// Add changes the value by n.
func (v *Value) Add(n int64) { v.n.Add(n) }

// Inc adds one.
func (v *Value) Inc() { v.n.Add(1) }

// Set makes the value n.
func (v *Value) Set(n int64) { v.n.Store(n) }

// Get returns the value.
func (v *Value) Get() int64 { return v.n.Load() }

// Name returns the full name, such as cluster.web.upstream_rq_total.
func (v *Value) Name() string {
	if v.name == "" {
		return v.scope + "." + v.stat
	}
	return v.scope + "." + v.name + "." + v.stat
}

type key struct{ scope, name, stat string }

// Registry holds the values. Create one with New.
type Registry struct {
	mu     sync.RWMutex
	values map[key]*Value
}

// New returns an empty registry.
func New() *Registry { return &Registry{values: map[key]*Value{}} }

// Counter returns the counter of that name; it is made at the first call. scope is one of cluster, http, listener
// and the like; name is the cluster's or listener's and may be empty.
func (r *Registry) Counter(scope, name, stat string) *Value { return r.value(scope, name, stat, false) }

// Gauge returns the gauge of that name, in the same way.
func (r *Registry) Gauge(scope, name, stat string) *Value { return r.value(scope, name, stat, true) }

func (r *Registry) value(scope, name, stat string, gauge bool) *Value {
	k := key{scope, name, stat}
	r.mu.RLock()
	v := r.values[k]
	r.mu.RUnlock()
	if v != nil {
		return v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v = r.values[k]; v == nil {
		v = &Value{scope: scope, name: name, stat: stat, gauge: gauge}
		r.values[k] = v
	}
	return v
}

// Response counts a response by its code and class, as <prefix>_200 and <prefix>_2xx.
func (r *Registry) Response(scope, name, prefix string, code int) {
	r.Counter(scope, name, fmt.Sprintf("%s_%d", prefix, code)).Inc()
	r.Counter(scope, name, fmt.Sprintf("%s_%dxx", prefix, code/100)).Inc()
}

// All returns the values whose names match filter, sorted by name. A nil filter matches all.
func (r *Registry) All(filter *regexp.Regexp) []*Value {
	r.mu.RLock()
	all := slices.Collect(maps.Values(r.values))
	r.mu.RUnlock()
	if filter != nil {
		all = slices.DeleteFunc(all, func(v *Value) bool { return !filter.MatchString(v.Name()) })
	}
	slices.SortFunc(all, func(a, b *Value) int { return cmp.Compare(a.Name(), b.Name()) })
	return all
}

// Labels that Envoy gives to the name in a scope.
var nameLabel = map[string]string{
	"cluster": "envoy_cluster_name", "http": "envoy_http_conn_manager_prefix", "listener": "envoy_listener_address",
}

var (
	unclean   = regexp.MustCompile(`[^a-zA-Z0-9_]`)
	codeClass = regexp.MustCompile(`^(.*_rq)_([1-5])xx$`)
	code      = regexp.MustCompile(`^(.*_rq)_([1-5][0-9][0-9])$`)
	quote     = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
)

// WritePrometheus prints all values whose names match filter in the Prometheus text format.
func (r *Registry) WritePrometheus(w io.Writer, filter *regexp.Regexp) error {
	type sample struct {
		labels string
		n      int64
	}
	families, kinds := map[string][]sample{}, map[string]string{}
	for _, v := range r.All(filter) {
		stat, labels := v.stat, []string(nil)
		if m := codeClass.FindStringSubmatch(stat); m != nil {
			stat, labels = m[1]+"_xx", append(labels, `envoy_response_code_class="`+m[2]+`"`)
		} else if m := code.FindStringSubmatch(stat); m != nil {
			stat, labels = m[1], append(labels, `envoy_response_code="`+m[2]+`"`)
		}
		if v.name != "" {
			labels = append(labels, nameLabel[v.scope]+`="`+quote.Replace(v.name)+`"`)
		}
		family := "envoy_" + unclean.ReplaceAllString(v.scope+"_"+stat, "_")
		kinds[family] = "counter"
		if v.gauge {
			kinds[family] = "gauge"
		}
		families[family] = append(families[family], sample{strings.Join(labels, ","), v.Get()})
	}
	for _, family := range slices.Sorted(maps.Keys(families)) {
		if _, err := fmt.Fprintf(w, "# TYPE %s %s\n", family, kinds[family]); err != nil {
			return err
		}
		for _, s := range families[family] {
			if _, err := fmt.Fprintf(w, "%s{%s} %d\n", family, s.labels, s.n); err != nil {
				return err
			}
		}
	}
	return nil
}
