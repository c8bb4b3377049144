package proxy

import (
	"fmt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// parseCheck reads the name, the protocol and the check of a probe into its target.
func parseCheck(p *proxyapi.Probe, t *probe.Target) error {
	t.Protocol = federation.TCP
	if p.GetProtocol() != "" {
		protocol, err := parseProtocol(p.GetProtocol())
		if err != nil {
			return err
		}
		t.Protocol = protocol
	}
	if p.GetName() != "" {
		port, err := parsePortNumber(p.GetPort())
		if err != nil {
			return err
		}
		t.Name, t.Port = p.GetName(), port
	}
	if p.GetCheck() == nil {
		return nil
	}
	t.Check = toCheck(p.GetCheck())
	return t.Check.Validate(t.Protocol)
}

func toCheck(c *proxyapi.Check) *probe.Check {
	out := &probe.Check{Kind: probe.Kind(c.GetKind()), Path: c.GetPath(), Host: c.GetHost(), Service: c.GetService()}
	for _, r := range c.GetExpected() {
		out.Expected = append(out.Expected, probe.StatusRange{Low: int(r.GetLow()), High: int(r.GetHigh())})
	}
	return out
}

// parsePortNumber accepts what can be connected to.
func parsePortNumber(port uint32) (uint16, error) {
	if port == 0 || port > 65535 {
		return 0, fmt.Errorf("port %d: use one from 1 to 65535", port)
	}
	return uint16(port), nil
}
