package dashboard

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// recent is how many decisions a page about something else shows.
const recent = 8

// clusterPage is the content of a cluster's page.
type clusterPage struct {
	clusterRow
	Signs     []sign
	Operation *operation
	Exports   []clusterExport
	Columns   []column
	Pager     pager
	Query     query
	// Ways are the probes from here and to here, by the other cluster.
	Ways     []way
	Timeline []entry
	Ramps    []option
}

// clusterExport is one of a cluster's exports.
type clusterExport struct {
	Service operator.ServiceID
	operator.Export
	Signs []sign
}

// way is what a cluster and another find of each other.
type way struct {
	Other  federation.ClusterID
	Region string
	To     cell
	From   cell
}

func (d *dashboard) cluster(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	id := federation.ClusterID(r.PathValue("id"))
	c, err := clusterIn(s, id)
	if err != nil {
		return answer{}, err
	}
	services, err := d.API.Services(ctx)
	if err != nil {
		return answer{}, err
	}
	operations, err := d.API.Operations(ctx)
	if err != nil {
		return answer{}, err
	}
	records, err := d.API.Journal(ctx, operator.JournalQuery{Cluster: id, Newest: true, Limit: recent})
	if err != nil {
		return answer{}, err
	}
	q := queryOf(r)
	p := clusterPage{clusterRow: rowOf(c), Signs: verdictSigns(c.Verdict), Query: q, Ways: waysOf(s, id), Timeline: timeline(records), Ramps: ramps("")}
	a := answer{template: "cluster", title: string(id), section: "overview", status: &s}
	for _, o := range operations {
		if o.Cluster == id && o.Service.IsZero() {
			p.Operation = new(operationOf(o))
		}
	}
	a.every = hurry(operations, func(o operator.Operation) bool { return o.Cluster == id })
	rows := exportsOf(services, id)
	p.Columns = sorted(q, rows, exportOrders)
	p.Exports, p.Pager = pageOf(q, rows)
	a.content = p
	return a, nil
}

// exportsOf are the exports of a cluster among all services.
func exportsOf(services []operator.Service, id federation.ClusterID) []clusterExport {
	var out []clusterExport
	for _, svc := range services {
		for _, x := range svc.Exports {
			if x.Cluster == id {
				out = append(out, clusterExport{svc.ID, x, verdictSigns(x.Verdict)})
			}
		}
	}
	return out
}

var exportOrders = []order[clusterExport]{
	{"service", "Service", func(a, b clusterExport) int { return a.Service.Compare(b.Service.ServiceID) }},
	{"health", "Health", func(a, b clusterExport) int {
		return cmp.Or(cmp.Compare(b.Verdict.Health, a.Verdict.Health), cmp.Compare(a.Verdict.Share, b.Verdict.Share))
	}},
	{"ready", "Ready", by(func(x clusterExport) int { return x.Ready })},
	{"vip", "VIP", nil},
	{"ports", "Ports", nil},
	{"wish", "Wish", by(func(x clusterExport) string { return string(x.Mode) })},
}

// clusterIn finds a member. The error names those there are.
func clusterIn(s operator.Status, id federation.ClusterID) (operator.Cluster, error) {
	i := slices.IndexFunc(s.Clusters, func(c operator.Cluster) bool { return c.ID == id })
	if i < 0 {
		return operator.Cluster{}, notFound("cluster", string(id), clusterIDs(s))
	}
	return s.Clusters[i], nil
}

func clusterIDs(s operator.Status) []string {
	out := make([]string, 0, len(s.Clusters))
	for _, c := range s.Clusters {
		out = append(out, string(c.ID))
	}
	return out
}

// waysOf are the ways between a cluster and all others.
func waysOf(s operator.Status, id federation.ClusterID) []way {
	probes := map[pair]operator.Probe{}
	for _, p := range s.Probes {
		if p.Observer == id || p.Target == id {
			probes[pair{p.Observer, p.Target}] = p
		}
	}
	var out []way
	for _, c := range s.Clusters {
		if c.ID == id {
			continue
		}
		to, hasTo := probes[pair{id, c.ID}]
		from, hasFrom := probes[pair{c.ID, id}]
		w := way{Other: c.ID, Region: c.Region, To: cellOf(id, c.ID, to, hasTo, s.Now), From: cellOf(c.ID, id, from, hasFrom, s.Now)}
		for _, end := range []*cell{&w.To, &w.From} {
			end.Href = "" // there is no list of errors on this page: the cell has it
		}
		out = append(out, w)
	}
	return out
}
