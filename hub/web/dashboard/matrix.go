package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

const (
	// maxMatrix is how many clusters a matrix may have on a side. Of more, one shows the regions.
	maxMatrix = 24
	// oldProbe is the age from which a result says little of now.
	oldProbe = 30 * time.Second
	// noRegion stands for the region of clusters that have none.
	noRegion = "(no region)"
)

// matrix shows who reaches whom: observers beside, targets above.
type matrix struct {
	// Regional is set if rows and columns are regions, because there are too many clusters.
	Regional bool
	// Narrowed is set if only some regions are shown.
	Narrowed  bool
	Columns   []heading
	Groups    []heading
	Rows      []matrixRow
	Unreached []unreached
}

// heading is a row's or a column's: of Span columns if it is that of a group.
type heading struct {
	Name, Href string
	Span       int
}

type matrixRow struct {
	heading
	Region string
	Cells  []cell
}

// cell is a pair of clusters, or of regions.
type cell struct {
	// Kind is ok, fail, old, none or self.
	Kind string
	// Text is shown, Title says more; Detail is why a probe failed.
	Text, Title, Detail, Href string
	// Heat is 0 to 5 by how long the way is.
	Heat int
}

// unreached is a target that some do not reach.
type unreached struct {
	Target federation.ClusterID
	// Of is how many observe it.
	Failing []operator.Probe
	Of      int
}

type pair struct{ observer, target federation.ClusterID }

func regionOf(c operator.Cluster) string { return cmp.Or(c.Region, noRegion) }

// matrixOf makes the matrix of a federation, or of the regions that a query names.
func matrixOf(s operator.Status, q query) matrix {
	clusters := slices.Clone(s.Clusters)
	slices.SortStableFunc(clusters, func(a, b operator.Cluster) int {
		return cmp.Or(cmp.Compare(regionOf(a), regionOf(b)), cmp.Compare(a.ID, b.ID))
	})
	probes := make(map[pair]operator.Probe, len(s.Probes))
	for _, p := range s.Probes {
		probes[pair{p.Observer, p.Target}] = p
	}
	var m matrix
	from, to := q.Get("from"), q.Get("to")
	m.Narrowed = from != "" || to != ""
	if len(clusters) > maxMatrix && !m.Narrowed {
		m.Regional = true
		m.regions(clusters, probes)
	} else {
		m.pairs(inRegion(clusters, from), inRegion(clusters, to), probes, s.Now)
	}
	m.Unreached = unreachedOf(s)
	return m
}

func inRegion(clusters []operator.Cluster, region string) []operator.Cluster {
	if region == "" {
		return clusters
	}
	return slices.DeleteFunc(slices.Clone(clusters), func(c operator.Cluster) bool { return regionOf(c) != region })
}

func (m *matrix) pairs(observers, targets []operator.Cluster, probes map[pair]operator.Probe, now time.Time) {
	for _, t := range targets {
		m.Columns = append(m.Columns, heading{string(t.ID), "/clusters/" + string(t.ID), 1})
		if n := len(m.Groups); n > 0 && m.Groups[n-1].Name == regionOf(t) {
			m.Groups[n-1].Span++
			continue
		}
		m.Groups = append(m.Groups, heading{regionOf(t), "", 1})
	}
	for _, o := range observers {
		row := matrixRow{heading: heading{Name: string(o.ID), Href: "/clusters/" + string(o.ID)}, Region: regionOf(o)}
		for _, t := range targets {
			p, ok := probes[pair{o.ID, t.ID}]
			row.Cells = append(row.Cells, cellOf(o.ID, t.ID, p, ok, now))
		}
		m.Rows = append(m.Rows, row)
	}
}

// cellOf is what one cluster finds of another.
func cellOf(observer, target federation.ClusterID, p operator.Probe, probed bool, now time.Time) cell {
	age := now.Sub(p.At)
	switch {
	case observer == target:
		return cell{Kind: "self", Text: "itself"}
	case !probed:
		return cell{Kind: "none", Text: "not probed", Title: fmt.Sprintf("%s does not probe %s", observer, target)}
	case !p.Reachable:
		return cell{Kind: "fail", Text: "fails", Href: "#unreached-" + string(target), Detail: cmp.Or(p.Error, "no answer"),
			Title: fmt.Sprintf("%s does not reach %s: %s, %s", observer, target, cmp.Or(p.Error, "no answer"), ago(age))}
	case age > oldProbe:
		return cell{Kind: "old", Text: rtt(p.RTT), Title: fmt.Sprintf("%s reached %s in %s, but that was %s", observer, target, rtt(p.RTT), ago(age))}
	}
	return cell{Kind: "ok", Text: rtt(p.RTT), Heat: heat(p.RTT), Title: fmt.Sprintf("%s reaches %s in %s, %s", observer, target, rtt(p.RTT), ago(age))}
}

// heat grades a way by how long it takes: within a zone, a region, a continent, and beyond.
func heat(d time.Duration) int {
	for i, limit := range []time.Duration{5, 20, 60, 120, 200} {
		if d < limit*time.Millisecond {
			return i
		}
	}
	return 5
}

// regions sums up the pairs between regions.
func (m *matrix) regions(clusters []operator.Cluster, probes map[pair]operator.Probe) {
	type between struct{ from, to string }
	found := map[between][]operator.Probe{}
	where := make(map[federation.ClusterID]string, len(clusters))
	var names []string
	for _, c := range clusters {
		where[c.ID] = regionOf(c)
		names = append(names, regionOf(c))
	}
	names = slices.Compact(names) // the clusters are sorted by them
	for p, probe := range probes {
		b := between{where[p.observer], where[p.target]}
		found[b] = append(found[b], probe)
	}
	for _, n := range names {
		m.Columns = append(m.Columns, heading{Name: n, Span: 1})
		row := matrixRow{heading: heading{Name: n}}
		for _, to := range names {
			c := sumOf(found[between{n, to}])
			if c.Kind != "none" {
				c.Href = query{path: "/"}.with("from", n, "to", to) + "#matrix"
			}
			row.Cells = append(row.Cells, c)
		}
		m.Rows = append(m.Rows, row)
	}
}

// sumOf is what the clusters of a region find of those of another.
func sumOf(probes []operator.Probe) cell {
	if len(probes) == 0 {
		return cell{Kind: "none", Text: "not probed"}
	}
	var good []time.Duration
	for _, p := range probes {
		if p.Reachable {
			good = append(good, p.RTT)
		}
	}
	if failing := len(probes) - len(good); failing > 0 {
		return cell{Kind: "fail", Text: fmt.Sprintf("%d of %d fail", failing, len(probes))}
	}
	slices.Sort(good)
	median := good[len(good)/2]
	return cell{Kind: "ok", Text: rtt(median), Heat: heat(median), Title: fmt.Sprintf("all %d pairs reach each other, half of them within %s", len(good), rtt(median))}
}

// unreachedOf gathers the probes that fail by their targets, those that most fail first.
func unreachedOf(s operator.Status) []unreached {
	found := map[federation.ClusterID]*unreached{}
	var out []*unreached
	for _, p := range s.Probes {
		u := found[p.Target]
		if u == nil {
			u = &unreached{Target: p.Target}
			found[p.Target] = u
			out = append(out, u)
		}
		u.Of++
		if !p.Reachable {
			u.Failing = append(u.Failing, p)
		}
	}
	slices.SortFunc(out, func(a, b *unreached) int {
		return cmp.Or(cmp.Compare(len(b.Failing), len(a.Failing)), cmp.Compare(a.Target, b.Target))
	})
	var failing []unreached
	for _, u := range out {
		if len(u.Failing) > 0 {
			failing = append(failing, *u)
		}
	}
	return failing
}
