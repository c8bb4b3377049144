package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// maxNamed is how many clusters a sentence names.
const maxNamed = 4

// overview is the content of the first page.
type overview struct {
	Headline string
	Troubles []trouble
	Clusters []clusterRow
	// Calm are the clusters of a large federation about which there is nothing to say.
	Calm   []federation.ClusterID
	Matrix matrix
	Facts  []fact
}

// trouble is something that is not as it should be, and the clusters of which it is true.
type trouble struct {
	Sign     sign
	Clusters []federation.ClusterID
	More     int
}

// fact is a name and what is true of it.
type fact struct{ Name, Value string }

// clusterRow is a member as tables show it.
type clusterRow struct {
	operator.Cluster
	LinkSign, APISign, Told sign
	// StaleSince is when the hub lost sight of a part of it, zero if it has not.
	StaleSince time.Time
}

func (d *dashboard) overview(r *http.Request, _ Viewer) (answer, error) {
	_, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	o := overview{Headline: headline(s.Clusters), Troubles: troubles(s.Clusters), Matrix: matrixOf(s, queryOf(r)), Facts: vipFacts(s)}
	for _, c := range s.Clusters {
		row := rowOf(c)
		if len(s.Clusters) > maxMatrix && row.calm() {
			o.Calm = append(o.Calm, c.ID)
			continue
		}
		o.Clusters = append(o.Clusters, row)
	}
	return answer{template: "overview", title: "Overview", section: "overview", status: &s, content: o}, nil
}

func rowOf(c operator.Cluster) clusterRow {
	r := clusterRow{Cluster: c, LinkSign: signalSign(c.Link), APISign: signalSign(c.API), Told: toldSign(c)}
	for _, s := range []operator.Signal{c.Link, c.API} {
		if !s.Up && (r.StaleSince.IsZero() || s.Since.Before(r.StaleSince)) {
			r.StaleSince = s.Since
		}
	}
	return r
}

// calm reports whether a member is as it should be, and nothing else is wanted of it.
func (r clusterRow) calm() bool {
	return r.Verdict.Health == federation.Healthy && !r.Verdict.Stale && r.Link.Up && r.API.Up && r.Told.Tone != "warn" && r.Mode == failover.Normal
}

// toldSign says how far a member is behind what the hub has for it.
func toldSign(c operator.Cluster) sign {
	var zero operator.Position
	switch {
	case c.Newest == zero:
		return sign{"none", "mute", "nothing to tell"}
	case c.Applied == zero:
		return sign{"wait", "warn", "nothing applied yet"}
	case c.Applied.Epoch != c.Newest.Epoch:
		return sign{"wait", "warn", fmt.Sprintf("at epoch %d of %d", c.Applied.Epoch, c.Newest.Epoch)}
	case c.Applied.Version < c.Newest.Version:
		return sign{"wait", "warn", number(int(c.Newest.Version-c.Applied.Version)) + " behind"}
	}
	return sign{"ok", "ok", "current"}
}

// headline says in a sentence how the federation is.
func headline(clusters []operator.Cluster) string {
	healthy := 0
	for _, c := range clusters {
		if c.Verdict.Health == federation.Healthy {
			healthy++
		}
	}
	switch {
	case len(clusters) == 0:
		return "No cluster has joined yet"
	case healthy == 0:
		return "No cluster is healthy"
	case len(clusters) == 1:
		return "The only cluster is healthy"
	case healthy == len(clusters):
		return fmt.Sprintf("All %d clusters are healthy", len(clusters))
	}
	return fmt.Sprintf("%d of %d clusters are healthy", healthy, len(clusters))
}

// troubles are what the headline leaves out, the worst first.
func troubles(clusters []operator.Cluster) []trouble {
	kinds := []struct {
		sign sign
		is   func(operator.Cluster) bool
	}{
		{healthSign(federation.Unhealthy), func(c operator.Cluster) bool { return c.Verdict.Health == federation.Unhealthy }},
		{healthSign(federation.Degraded), func(c operator.Cluster) bool { return c.Verdict.Health == federation.Degraded }},
		{sign{"stale", "warn", "stale"}, func(c operator.Cluster) bool { return c.Verdict.Stale }},
		{sign{"drain", "op", "draining"}, func(c operator.Cluster) bool { return c.Mode == failover.Drain && c.Verdict.Share > 0 }},
		{sign{"drain", "op", "drained"}, func(c operator.Cluster) bool { return c.Mode == failover.Drain && c.Verdict.Share == 0 }},
		{sign{"cordon", "op", "cordoned"}, func(c operator.Cluster) bool { return c.Mode == failover.Cordon }},
	}
	var out []trouble
	for _, k := range kinds {
		t := trouble{Sign: k.sign}
		for _, c := range clusters {
			if k.is(c) {
				t.Clusters = append(t.Clusters, c.ID)
			}
		}
		if n := len(t.Clusters); n > maxNamed {
			t.Clusters, t.More = t.Clusters[:maxNamed], n-maxNamed
		}
		if len(t.Clusters) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// vipFacts are the hub line: what runs, and what is in the registry.
func vipFacts(s operator.Status) []fact {
	out := []fact{{"Hub", cmp.Or(s.Version, "of unknown version")}, {"Epoch", strconv.FormatUint(s.Epoch, 10)}}
	for _, state := range slices.Sorted(maps.Keys(s.VIPs)) {
		out = append(out, fact{"VIPs " + state, number(s.VIPs[state])})
	}
	if s.Tasks > 0 {
		out = append(out, fact{"changes the tailnets wait for", number(s.Tasks)})
	}
	return out
}
