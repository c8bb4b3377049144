package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// servicesPage is the content of the list of services.
type servicesPage struct {
	Query            query
	Rows             []serviceRow
	Columns          []column
	Pager            pager
	All              int
	Clusters, States []option
}

// serviceRow is a service as the list shows it.
type serviceRow struct {
	operator.Service
	// Healthy counts the exports that are, Ready their endpoints.
	Healthy, Ready, Desired int
	State                   sign
	Chips                   []exportChip
}

type exportChip struct {
	Cluster federation.ClusterID
	Sign    sign
}

// The states of a service, as the list can be filtered by them.
const (
	stateHealthy = "healthy"
	statePartly  = "partly healthy"
	stateDown    = "down"
	stateWished  = "operated on"
)

var serviceOrders = []order[serviceRow]{
	{"service", "Service", func(a, b serviceRow) int {
		return cmp.Or(cmp.Compare(a.ID.Namespace, b.ID.Namespace), cmp.Compare(a.ID.Name, b.ID.Name), a.ID.Compare(b.ID.ServiceID))
	}},
	{"state", "State", func(a, b serviceRow) int {
		// The share that is healthy, without dividing.
		return cmp.Compare(a.Healthy*max(1, len(b.Exports)), b.Healthy*max(1, len(a.Exports)))
	}},
	{"ready", "Ready", by(func(r serviceRow) int { return r.Ready })},
	{"exports", "Exported by", by(func(r serviceRow) int { return len(r.Exports) })},
}

func (d *dashboard) services(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	all, err := d.API.Services(ctx)
	if err != nil {
		return answer{}, err
	}
	q := queryOf(r)
	p := servicesPage{Query: q, All: len(all), Clusters: optionsOf("any cluster", q.Get("cluster"), clusterIDs(s)),
		States: optionsOf("any state", q.Get("state"), []string{stateHealthy, statePartly, stateDown, stateWished})}
	rows := filterServices(q, all)
	p.Columns = sorted(q, rows, serviceOrders)
	p.Rows, p.Pager = pageOf(q, rows)
	return answer{template: "services", title: "Services", section: "services", status: &s, content: p}, nil
}

// filterServices returns those that a query asks for.
func filterServices(q query, all []operator.Service) []serviceRow {
	words, cluster, state := q.words(), federation.ClusterID(q.Get("cluster")), q.Get("state")
	var out []serviceRow
	for _, svc := range all {
		if cluster != "" && !slices.ContainsFunc(svc.Exports, func(x operator.Export) bool { return x.Cluster == cluster }) {
			continue
		}
		texts := []string{svc.ID.String()}
		for _, x := range svc.Exports {
			texts = append(texts, string(x.Cluster))
			for _, a := range x.Addresses {
				texts = append(texts, a.String())
			}
		}
		row := serviceRowOf(svc)
		wished := state == stateWished && slices.ContainsFunc(svc.Exports, func(x operator.Export) bool { return x.Mode != "" })
		if (state == "" || wished || row.stateWord() == state) && matches(words, texts...) {
			out = append(out, row)
		}
	}
	return out
}

func serviceRowOf(svc operator.Service) serviceRow {
	r := serviceRow{Service: svc}
	for _, x := range svc.Exports {
		r.Ready += x.Ready
		r.Desired += x.Desired
		if x.Verdict.Health == federation.Healthy {
			r.Healthy++
		}
		r.Chips = append(r.Chips, exportChip{x.Cluster, chipSign(x)})
	}
	switch r.stateWord() {
	case stateHealthy:
		r.State = sign{"ok", "ok", r.stateWord()}
	case stateDown:
		r.State = sign{"bad", "bad", r.stateWord()}
	default:
		r.State = sign{"warn", "warn", fmt.Sprintf("%d of %d healthy", r.Healthy, len(r.Exports))}
	}
	return r
}

// chipSign is the one sign that says most of an export.
func chipSign(x operator.Export) sign {
	s := healthSign(x.Verdict.Health)
	var more []string
	if x.Verdict.Stale {
		more = append(more, "stale")
		if x.Verdict.Health == federation.Healthy {
			s = sign{"stale", "warn", s.Word}
		}
	}
	if x.Mode != "" {
		m := modeSign(x.Mode)
		more = append(more, m.Word)
		if x.Verdict.Health != federation.Unhealthy {
			s = sign{m.Icon, m.Tone, s.Word}
		}
	}
	if len(more) > 0 {
		s.Word += ", " + strings.Join(more, ", ")
	}
	return s
}

func (r serviceRow) stateWord() string {
	switch r.Healthy {
	case 0:
		return stateDown
	case len(r.Exports):
		return stateHealthy
	}
	return statePartly
}
