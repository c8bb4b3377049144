package dashboard

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// vipsPage is the content of the registry's page.
type vipsPage struct {
	Query            query
	Rows             []vipRow
	Columns          []column
	Pager            pager
	All              int
	Clusters, States []option
}

// vipRow is a VIP as the table shows it.
type vipRow struct {
	operator.VIP
	Sign sign
}

// Address is the first of a VIP's, which clients mostly use.
func (v vipRow) Address() netip.Addr {
	if len(v.Addresses) == 0 {
		return netip.Addr{}
	}
	return v.Addresses[0]
}

var vipOrders = []order[vipRow]{
	{"name", "VIP", by(func(v vipRow) string { return v.ServiceName })},
	{"address", "Addresses", func(a, b vipRow) int { return a.Address().Compare(b.Address()) }},
	{"service", "Leads to", func(a, b vipRow) int { return a.Service.Compare(b.Service.ServiceID) }},
	{"cluster", "Served by", by(func(v vipRow) federation.ClusterID { return v.Cluster })},
	{"ports", "Ports", nil},
	{"tailnet", "Tailnet", by(func(v vipRow) string { return v.TailnetRef })},
	{"state", "State", func(a, b vipRow) int {
		return cmp.Or(cmp.Compare(a.State, b.State), a.ReleasedAt.Compare(b.ReleasedAt))
	}},
}

func (d *dashboard) vips(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	all, err := d.API.VIPs(ctx)
	if err != nil {
		return answer{}, err
	}
	q := queryOf(r)
	p := vipsPage{Query: q, All: len(all), Clusters: optionsOf("any cluster", q.Get("cluster"), clusterIDs(s)),
		States: optionsOf("any state", q.Get("state"), []string{"assigned", "pending", "released"})}
	rows := filterVIPs(q, all)
	p.Columns = sorted(q, rows, vipOrders)
	p.Rows, p.Pager = pageOf(q, rows)
	return answer{template: "vips", title: "VIPs", section: "vips", status: &s, content: p}, nil
}

// filterVIPs returns those that a query asks for.
func filterVIPs(q query, all []operator.VIP) []vipRow {
	words, cluster, state := q.words(), federation.ClusterID(q.Get("cluster")), q.Get("state")
	var out []vipRow
	for _, v := range all {
		if state != "" && v.State != state {
			continue
		}
		if cluster != "" && v.Cluster != cluster && !slices.Contains(v.Advertisers, cluster) {
			continue
		}
		texts := []string{v.ServiceName, v.Name, v.Service.String(), string(v.Cluster), v.Tailnet, v.TailnetRef, portWords(v.Ports)}
		for _, a := range v.Addresses {
			texts = append(texts, a.String())
		}
		if matches(words, texts...) {
			out = append(out, vipRow{v, vipSign(v.State)})
		}
	}
	return out
}

func vipSign(state string) sign {
	switch state {
	case "assigned":
		return sign{"ok", "ok", state}
	case "pending":
		return sign{"wait", "warn", state}
	}
	return sign{"none", "mute", state}
}
