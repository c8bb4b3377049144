package coordinator

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// ReasonPortConflict is the reason of a notice about an export whose ports are not those of the same service elsewhere.
// The word is KEP-1645's.
const ReasonPortConflict = "PortConflict"

// namedRivals is how many clusters a message about a conflict names.
const namedRivals = 8

// offered notes, before a step is made, the exports whose ports it changes, and with them all others of the service.
func (p *publication) offered(exports map[federation.ExportKey]*failover.Saved) {
	for k, saved := range exports {
		if k.Service.Kind != federation.KindService {
			continue // a Gateway's listeners are its cluster's own affair
		}
		old, had := p.state.Export(k)
		if had && saved != nil && slices.Equal(old.Ports, saved.Export.Ports) {
			continue
		}
		p.offers[k] = struct{}{}
		for _, other := range p.table.Exporters(k.Service) {
			p.offers[federation.ExportKey{Cluster: other, Service: k.Service}] = struct{}{}
		}
	}
}

// conflict tells a member which other exports of a service have other ports than its own, or that none has. Each export
// keeps the ports that it has: who names a cluster gets what is there. But a port that is not everywhere fails with the
// cluster that has it, which no health check can see beforehand.
func (p *publication) conflict(k federation.ExportKey) {
	if !p.isMember(k.Cluster) {
		return
	}
	r := &linkstate.Resource{Notice: &federation.Notice{Subject: "conflict/" + k.Service.String(), Reason: ReasonPortConflict}}
	key := r.Key()
	rivals := p.rivals(k)
	if len(rivals) == 0 {
		p.change(k.Cluster, key, nil)
		return
	}
	named := strings.Join(rivals[:min(len(rivals), namedRivals)], ", ")
	if more := len(rivals) - namedRivals; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	r.Notice.Message = fmt.Sprintf("the service has other ports in %s: give it the same ones everywhere, or other names where it is another service", named)
	p.change(k.Cluster, key, r)
}

// rivals returns the clusters whose export of the service differs from the one of k, each with its ports, sorted.
func (p *publication) rivals(k federation.ExportKey) []string {
	own, ok := p.state.Export(k)
	if !ok || k.Service.Kind != federation.KindService {
		return nil
	}
	var out []string
	for _, other := range p.table.Exporters(k.Service) {
		x, ok := p.state.Export(federation.ExportKey{Cluster: other, Service: k.Service})
		if ok && !slices.EqualFunc(own.Ports, x.Ports, samePort) {
			out = append(out, fmt.Sprintf("%s (%s)", other, spell(x.Ports)))
		}
	}
	return out
}

// samePort reports whether two ports are the same to whoever connects to them: what they are called does not count.
func samePort(a, b federation.Port) bool {
	return a.Port == b.Port && a.Protocol == b.Protocol && a.App == b.App
}

// spell names ports for a message.
func spell(ports []federation.Port) string {
	words := make([]string, 0, len(ports))
	for _, p := range ports {
		word := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.App != federation.AppUnknown {
			word += " " + p.App.String()
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}
