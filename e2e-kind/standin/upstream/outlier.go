package upstream

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// outlierSpec is a compiled OutlierDetection. Counts of 0 switch a detector off.
type outlierSpec struct {
	consecutive5xx, consecutiveGateway, consecutiveLocal uint32
	enforce5xx, enforceGateway, enforceLocal             uint32 // percent
	interval, baseEjection, maxEjection                  time.Duration
	maxPercent                                           uint32
	alwaysOne, split, checkUnejects                      bool
}

func compileOutlier(in *clusterv3.OutlierDetection) *outlierSpec {
	if in == nil {
		return nil
	}
	count := func(v *wrapperspb.UInt32Value, def uint32) uint32 {
		if v == nil {
			return def
		}
		return v.GetValue()
	}
	duration := func(v *durationpb.Duration, def time.Duration) time.Duration {
		if v == nil {
			return def
		}
		return v.AsDuration()
	}
	s := &outlierSpec{
		consecutive5xx: count(in.GetConsecutive_5Xx(), 5), enforce5xx: count(in.GetEnforcingConsecutive_5Xx(), 100),
		consecutiveGateway: count(in.GetConsecutiveGatewayFailure(), 5), enforceGateway: count(in.GetEnforcingConsecutiveGatewayFailure(), 0),
		consecutiveLocal: count(in.GetConsecutiveLocalOriginFailure(), 5), enforceLocal: count(in.GetEnforcingConsecutiveLocalOriginFailure(), 100),
		interval: duration(in.GetInterval(), 10*time.Second), baseEjection: duration(in.GetBaseEjectionTime(), 30*time.Second),
		maxPercent: min(100, count(in.GetMaxEjectionPercent(), 10)), alwaysOne: in.GetAlwaysEjectOneHost().GetValue(),
		split:         in.GetSplitExternalLocalOriginErrors(),
		checkUnejects: in.GetSuccessfulActiveHealthCheckUnejectHost() == nil || in.GetSuccessfulActiveHealthCheckUnejectHost().GetValue(),
	}
	s.maxEjection = duration(in.GetMaxEjectionTime(), max(300*time.Second, s.baseEjection))
	return s
}

// record is what outlier detection knows of one host.
type record struct {
	run5xx, runGateway, runLocal uint32
	ejected                      bool
	since                        time.Time
	times                        int // multiplies the ejection time
}

// detector ejects hosts after runs of failures. Its methods report whether an ejection began or ended.
type detector struct {
	spec *outlierSpec

	mu      sync.Mutex
	records map[*host]*record
	active  int
}

func newDetector(spec *outlierSpec) *detector {
	return &detector{spec: spec, records: map[*host]*record{}}
}

// keep makes hosts the ones that are watched.
func (d *detector) keep(hosts map[string]*host) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for h, r := range d.records {
		if hosts[h.key] != h {
			if r.ejected {
				d.active--
			}
			delete(d.records, h)
		}
	}
	for _, h := range hosts {
		if d.records[h] == nil {
			d.records[h] = &record{}
		}
	}
}

func (d *detector) ejected(h *host) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[h]
	return r != nil && r.ejected
}

// status notes a response.
func (d *detector) status(h *host, code int, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[h]
	if r == nil {
		return false
	}
	r.runLocal = 0
	return d.codeLocked(r, code, now)
}

// local notes a failure to get any response: a failed connection, a reset or a timeout.
func (d *detector) local(h *host, timeout bool, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[h]
	switch {
	case r == nil:
		return false
	case d.spec.split:
		r.runLocal++
		return d.ejectLocked(r, r.runLocal, d.spec.consecutiveLocal, d.spec.enforceLocal, now)
	case timeout:
		return d.codeLocked(r, http.StatusGatewayTimeout, now)
	default:
		return d.codeLocked(r, http.StatusServiceUnavailable, now)
	}
}

func (d *detector) codeLocked(r *record, code int, now time.Time) bool {
	if code < 500 {
		r.run5xx, r.runGateway = 0, 0
		return false
	}
	began := false
	if code >= 502 && code <= 504 {
		r.runGateway++
		began = d.ejectLocked(r, r.runGateway, d.spec.consecutiveGateway, d.spec.enforceGateway, now)
	} else {
		r.runGateway = 0
	}
	r.run5xx++
	return d.ejectLocked(r, r.run5xx, d.spec.consecutive5xx, d.spec.enforce5xx, now) || began
}

func (d *detector) ejectLocked(r *record, run, limit, enforce uint32, now time.Time) bool {
	if limit == 0 || run < limit {
		return false
	}
	r.run5xx, r.runGateway, r.runLocal = 0, 0, 0
	percent := 100 * float64(d.active+1) / float64(len(d.records))
	allowed := percent <= float64(d.spec.maxPercent) || (d.active == 0 && d.spec.alwaysOne)
	if r.ejected || !allowed || rand.Uint32N(100) >= enforce {
		return false
	}
	r.ejected, r.since = true, now
	r.times++
	d.active++
	return true
}

// tick ends the ejections whose time is over.
func (d *detector) tick(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	ended := false
	for _, r := range d.records {
		switch {
		case r.ejected && now.Sub(r.since) >= min(d.spec.baseEjection*time.Duration(r.times), d.spec.maxEjection):
			r.ejected, ended = false, true
			d.active--
		case !r.ejected && r.times > 0:
			r.times-- // each quiet interval makes the next ejection shorter again
		}
	}
	return ended
}

// checked ends the ejection of a host that passed an active health check.
func (d *detector) checked(h *host) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[h]
	if r == nil || !r.ejected || !d.spec.checkUnejects {
		return false
	}
	r.ejected = false
	d.active--
	return true
}
