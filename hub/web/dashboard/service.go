package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// maxConsumers is how many consumers' endpoint sets one page shows. Of more, it shows the one that is asked for.
const maxConsumers = 16

// servicePage is the content of a service's page.
type servicePage struct {
	serviceRow
	Exports []serviceExport
	Sets    []chain
	// Choices are the headings of the sets' priorities.
	Choices []string
	// Consumers are to choose from where there are too many to show; Shown is the one chosen.
	Consumers []option
	Policies  []policyOf
	Timeline  []entry
}

type serviceExport struct {
	operator.Export
	Signs     []sign
	Operation *operation
}

// policyOf is a policy and the consumers that it rules.
type policyOf struct {
	Name      string
	Consumers []federation.ClusterID
}

// chain is an endpoint set in the order of its priorities.
type chain struct {
	Consumer     federation.ClusterID
	Region       string
	Policy       string
	Unreferenced bool
	Groups       []group
	// Failure says why there is no set.
	Failure string
}

// group are the endpoints of one priority. Takes says that traffic goes there, as far as health decides.
type group struct {
	Takes bool
	Links []link
}

// link is an endpoint of a chain. Percent is its share of what its group takes.
type link struct {
	operator.Endpoint
	Sign    sign
	Percent uint8
}

func (d *dashboard) service(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	id := federation.ServiceID{Kind: federation.Kind(r.PathValue("kind")), Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	if _, err := federation.ParseServiceID(id.String()); err != nil {
		return answer{}, fmt.Errorf("%w: %w", operator.ErrNotFound, err)
	}
	svc, err := d.API.Service(ctx, id)
	if err != nil {
		return answer{}, err
	}
	operations, err := d.API.Operations(ctx)
	if err != nil {
		return answer{}, err
	}
	records, err := d.API.Journal(ctx, operator.JournalQuery{Service: id, Newest: true, Limit: recent})
	if err != nil {
		return answer{}, err
	}
	p := servicePage{serviceRow: serviceRowOf(svc), Policies: policiesOf(svc.Policy), Timeline: timeline(records)}
	for _, x := range svc.Exports {
		p.Exports = append(p.Exports, serviceExport{x, verdictSigns(x.Verdict), operationOn(operations, x.Cluster, svc.ID)})
	}
	consumers := s.Clusters
	if len(consumers) > maxConsumers {
		from := r.URL.Query().Get("from")
		if from == "" {
			from = string(consumers[0].ID)
		}
		p.Consumers = optionsOf("", from, clusterIDs(s))[1:]
		consumers = slices.DeleteFunc(slices.Clone(consumers), func(c operator.Cluster) bool { return string(c.ID) != from })
	}
	if p.Sets, err = d.chains(ctx, id, consumers); err != nil {
		return answer{}, err
	}
	p.Choices = choicesOf(p.Sets)
	a := answer{template: "service", title: id.Namespace + "/" + id.Name, section: "services", status: &s, content: p}
	a.every = hurry(operations, func(o operator.Operation) bool { return o.Service == svc.ID })
	return a, nil
}

// Unknown is the time of what nobody told.
func (servicePage) Unknown() time.Time { return time.Time{} }

// Wide is how many columns the sets have beside the consumer.
func (p servicePage) Wide() int { return max(1, len(p.Choices)) }

// Rest has an element for each column that a chain leaves empty.
func (p servicePage) Rest(c chain) []struct{} {
	return make([]struct{}, p.Wide()-max(1, len(c.Groups)))
}

// chains asks for what consumers are told. One that the hub has nothing for does not hide the others.
func (d *dashboard) chains(ctx context.Context, id federation.ServiceID, consumers []operator.Cluster) ([]chain, error) {
	var out []chain
	for _, c := range consumers {
		set, err := d.API.Endpoints(ctx, id, c.ID)
		switch {
		case errors.Is(err, operator.ErrNotFound):
			out = append(out, chain{Consumer: c.ID, Region: c.Region, Failure: err.Error()})
			continue
		case err != nil:
			return nil, err
		}
		ch := chainOf(set)
		ch.Region = c.Region
		out = append(out, ch)
	}
	return out, nil
}

// chainOf groups an endpoint set by priority. Traffic goes to the first group with a healthy endpoint, or, where there is
// none, to the first with a degraded one: what is published fails open.
func chainOf(set operator.EndpointSet) chain {
	c := chain{Consumer: set.Consumer, Policy: set.Policy, Unreferenced: set.Unreferenced}
	best := federation.Unhealthy
	for _, e := range set.Endpoints {
		best = min(best, e.Health)
	}
	takes, last := -1, uint32(0)
	for i, e := range set.Endpoints {
		if i == 0 || e.Priority != last {
			c.Groups = append(c.Groups, group{})
			last = e.Priority
		}
		g := len(c.Groups) - 1
		if takes < 0 && e.Health == best && best != federation.Unhealthy {
			takes = g
		}
		s := healthSign(e.Health)
		if e.Stale && e.Health == federation.Healthy {
			s = sign{"stale", "warn", "healthy, stale"}
		}
		c.Groups[g].Links = append(c.Groups[g].Links, link{Endpoint: e, Sign: s})
	}
	if takes >= 0 {
		c.Groups[takes].share(best)
	}
	return c
}

// share gives the endpoints of the health that takes traffic their percentages, which add up to 100.
func (g *group) share(h federation.Health) {
	g.Takes = true
	var sum uint64
	for _, l := range g.Links {
		if l.Health == h {
			sum += uint64(l.Weight)
		}
	}
	var until uint64
	for i := range g.Links {
		if l := &g.Links[i]; l.Health == h && sum > 0 {
			before := (until*100 + sum/2) / sum
			until += uint64(l.Weight)
			l.Percent = uint8((until*100+sum/2)/sum - before)
		}
	}
}

// Text writes a chain in one line: groups from the first choice on, those that take traffic with their share.
func (c chain) Text() string {
	var b strings.Builder
	for i, g := range c.Groups {
		if i > 0 {
			b.WriteString(" ▸ ")
		}
		for j, l := range g.Links {
			if j > 0 {
				b.WriteString(" · ")
			}
			b.WriteString(string(l.Cluster))
			if l.Percent > 0 {
				b.WriteString(" " + percent(l.Percent))
			}
		}
	}
	return b.String()
}

// choicesOf are the headings of as many priorities as the longest chain has.
func choicesOf(chains []chain) []string {
	n := 0
	for _, c := range chains {
		n = max(n, len(c.Groups))
	}
	names := []string{"First choice", "Second choice", "Third choice"}
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("Choice %d", i+1)
	}
	copy(out, names)
	return out
}

// policiesOf turns round which policy rules which consumer.
func policiesOf(byConsumer map[federation.ClusterID]string) []policyOf {
	found := map[string][]federation.ClusterID{}
	for c, name := range byConsumer {
		found[name] = append(found[name], c)
	}
	var out []policyOf
	for name, consumers := range found {
		slices.Sort(consumers)
		out = append(out, policyOf{name, consumers})
	}
	slices.SortFunc(out, by(func(p policyOf) string { return p.Name }))
	return out
}
