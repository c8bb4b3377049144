package upstream

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// verdict is the result of one active health check.
type verdict struct {
	ok  bool
	now bool // a failure counts at once, whatever the threshold
}

// check runs one health check of one host until ctx ends.
func (c *Cluster) check(ctx context.Context, s *slot, index int) {
	hc := c.Spec.checks[index]
	failing, run := true, uint32(0)
	for first := true; ; first = false {
		v := c.probe(ctx, s, hc)
		if ctx.Err() != nil {
			return
		}
		c.deps.Stats.Counter("cluster", c.Spec.Name, "health_check.attempt").Inc()
		threshold := hc.GetHealthyThreshold().GetValue()
		outcome := "health_check.success"
		if !v.ok {
			threshold, outcome = hc.GetUnhealthyThreshold().GetValue(), "health_check.failure"
		}
		c.deps.Stats.Counter("cluster", c.Spec.Name, outcome).Inc()
		if v.ok != failing { // agrees with what is known
			run = 0
		} else if run++; run >= threshold || first || v.now {
			failing, run = !v.ok, 0
		}
		c.checked(s.host, index, failing, v.ok, first)
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.checkInterval(hc, failing)):
		}
	}
}

func (c *Cluster) checkInterval(hc *corev3.HealthCheck, failing bool) time.Duration {
	switch {
	case !c.trafficked.Load() && hc.GetNoTrafficInterval() != nil:
		return hc.GetNoTrafficInterval().AsDuration()
	case !c.trafficked.Load():
		return time.Minute // Envoy's default for a cluster without traffic
	case failing && hc.GetUnhealthyInterval() != nil:
		return hc.GetUnhealthyInterval().AsDuration()
	default:
		return hc.GetInterval().AsDuration()
	}
}

// checked stores a verdict and renews the view if it changed anything.
func (c *Cluster) checked(h *host, index int, failing, passed, first bool) {
	h.mu.Lock()
	changed := h.failing[index] != failing || first
	h.failing[index] = failing
	if first {
		h.waiting--
	}
	h.mu.Unlock()
	if passed && c.detector != nil {
		changed = c.detector.checked(h) || changed
	}
	if changed {
		c.refresh()
	}
}

func (c *Cluster) probe(ctx context.Context, s *slot, hc *corev3.HealthCheck) verdict {
	ctx, cancel := context.WithTimeout(ctx, hc.GetTimeout().AsDuration())
	defer cancel()
	address := s.address
	if p := s.endpoint.CheckPort; p != 0 {
		ip, _, err := net.SplitHostPort(address)
		if err != nil {
			return verdict{}
		}
		address = net.JoinHostPort(ip, strconv.Itoa(int(p)))
	}
	probed := *s.probeCopy(address)
	if tcp := hc.GetTcpHealthCheck(); tcp != nil {
		return verdict{ok: probeTCP(ctx, &probed, tcp) == nil}
	}
	return probeHTTP(ctx, &probed, s.endpoint.CheckHost, hc.GetHttpHealthCheck())
}

// probeCopy returns what a probe needs of a host, with a connection pool of its own.
func (h *host) probeCopy(address string) *host {
	p := &host{address: address, spec: h.spec, socket: h.socket, secrets: h.secrets}
	p.cx = h.cx
	return p
}

func probeHTTP(ctx context.Context, h *host, hostname string, hc *corev3.HealthCheck_HttpHealthCheck) verdict {
	method := http.MethodGet
	if hc.GetMethod() != corev3.RequestMethod_METHOD_UNSPECIFIED {
		method = hc.GetMethod().String()
	}
	req, err := http.NewRequestWithContext(ctx, method, h.scheme()+"://"+h.address+hc.GetPath(), nil)
	if err != nil {
		return verdict{}
	}
	for _, name := range []string{hostname, hc.GetHost(), h.spec.Name} {
		if name != "" {
			req.Host = name
			break
		}
	}
	req.Header.Set("User-Agent", "Envoy/HC")
	for _, o := range hc.GetRequestHeadersToAdd() {
		req.Header.Set(o.GetHeader().GetKey(), o.GetHeader().GetValue())
	}
	t, err := h.newTransport(req.Host, h.spec.http2, true)
	if err != nil {
		return verdict{}
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return verdict{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return verdict{}
	}
	code := int64(resp.StatusCode)
	expected := hc.GetExpectedStatuses()
	if len(expected) == 0 {
		expected = []*typev3.Int64Range{{Start: 200, End: 201}}
	}
	if !inRanges(expected, code) {
		return verdict{now: !inRanges(hc.GetRetriableStatuses(), code)}
	}
	return verdict{ok: received(body, hc.GetReceive())}
}

func inRanges(ranges []*typev3.Int64Range, n int64) bool {
	for _, r := range ranges {
		if n >= r.GetStart() && n < r.GetEnd() {
			return true
		}
	}
	return false
}

func probeTCP(ctx context.Context, h *host, hc *corev3.HealthCheck_TcpHealthCheck) error {
	conn, err := h.dial(ctx, "tcp", h.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a blocked read
	defer stop()
	if hc.GetSend() != nil {
		if _, err := conn.Write(payload(hc.GetSend())); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	var got []byte
	buf := make([]byte, 4096)
	for !received(got, hc.GetReceive()) {
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil && !received(got, hc.GetReceive()) {
			return fmt.Errorf("receive: %w", err)
		}
	}
	return nil
}

// received reports whether all wanted payloads are in got, in their order.
func received(got []byte, want []*corev3.HealthCheck_Payload) bool {
	for _, p := range want {
		_, rest, found := bytes.Cut(got, payload(p))
		if !found {
			return false
		}
		got = rest
	}
	return true
}

func payload(p *corev3.HealthCheck_Payload) []byte {
	if b := p.GetBinary(); b != nil {
		return b
	}
	b, err := hex.DecodeString(p.GetText())
	if err != nil {
		return []byte(p.GetText())
	}
	return b
}
