package sim

import (
	"fmt"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// probeAPIs asks the API servers of all members for a sign of life, and for a watch where there is none.
func (h *hub) probeAPIs() {
	for _, c := range h.w.members {
		if _, ok := h.co.Member(c.Cluster); !ok || c.left > 0 {
			delete(h.apis, c.Cluster)
			continue
		}
		a := h.apis[c.Cluster]
		if a == nil {
			a = &api{heard: h.w.now}
			h.apis[c.Cluster] = a
		}
		if h.w.now-a.heard > apiSilence && (a.up || !a.told) {
			h.lostAPI(c.Cluster, a)
			if !h.up {
				return
			}
		}
		h.probeAPI(c, a)
	}
	h.w.push(h.w.now+apiProbe, &h.party, h.probeAPIs)
}

func (h *hub) lostAPI(id federation.ClusterID, a *api) {
	if a.watch != nil {
		a.watch.stream.kill()
		a.watch = nil
	}
	a.up, a.told = false, true
	h.tell(failover.APIChanged{Cluster: id})
}

func (h *hub) probeAPI(c *cluster, a *api) {
	need, life := a.watch == nil, h.life
	h.w.net.datagram(h.name, c.name(), &c.spoke.party, func() {
		if !c.served() || h.life != life {
			return
		}
		h.w.note(c.name(), "API probed", h.name, fmt.Sprint("need ", need), fmt.Sprint("watches ", len(c.watches)))
		// Asked for once more before the list has arrived, it is sent once more.
		if need || !slices.ContainsFunc(c.watches, func(wt *watch) bool { return wt.h == h && !wt.stream.dead }) {
			c.serveWatch(h)
		}
		h.w.net.datagram(c.name(), h.name, &h.party, func() {
			if h.apis[c.Cluster] == a {
				a.heard = h.w.now
			}
		})
	})
}

// listed takes all exports of a member, as the beginning of a watch.
func (h *hub) listed(wt *watch, all []federation.Export) {
	a := h.apis[wt.c.Cluster]
	if a == nil || !h.up || a.watch != nil && a.watch.number > wt.number {
		return
	}
	a.watch, a.heard = wt, h.w.now
	h.note("listed", wt.c.name(), fmt.Sprint("watch ", wt.number))
	for _, x := range all {
		h.tell(failover.ExportChanged{Export: x})
	}
	if !h.up {
		return
	}
	for _, k := range h.co.State().Exports(wt.c.Cluster) {
		if !slices.ContainsFunc(all, func(x federation.Export) bool { return x.Key == k }) {
			h.tell(failover.ExportRemoved{Key: k})
		}
	}
	if !a.up || !a.told {
		a.up, a.told = true, true
		h.tell(failover.APIChanged{Cluster: wt.c.Cluster, Up: true})
	}
	h.handle(coordinator.ExportsListed{Cluster: wt.c.Cluster})
}

// watched takes a change of an export.
func (h *hub) watched(wt *watch, x federation.Export, there bool) {
	a := h.apis[wt.c.Cluster]
	if a == nil || a.watch != wt {
		return
	}
	if there {
		h.tell(failover.ExportChanged{Export: x})
	} else {
		h.tell(failover.ExportRemoved{Key: x.Key})
	}
}

// watchEnded is told that a member ended a watch.
func (h *hub) watchEnded(wt *watch) {
	if a := h.apis[wt.c.Cluster]; a != nil && a.watch == wt {
		a.watch = nil
		h.w.cov.count(TopicState, "watch ended by the member")
	}
}
