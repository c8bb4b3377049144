package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// writeConfig replaces the file at once, so that a reader finds either the old or the new configuration.
func writeConfig(path string, config *proxyapi.Config) error {
	data, err := proto.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config-*")
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("save configuration: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

// readConfig reads what writeConfig wrote. Judgements of the moment are left out: a remote that was unreachable then
// is tried again.
func readConfig(path string) (*proxyapi.Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read saved configuration: %w", err)
	}
	config := &proxyapi.Config{}
	if err := proto.Unmarshal(data, config); err != nil {
		return nil, fmt.Errorf("decode saved configuration %s: %w", path, err)
	}
	for _, e := range config.GetEgress() {
		e.Reset_ = false
	}
	return config, nil
}

// probeTargets converts probes and returns those that make no sense by id, with what is wrong.
func probeTargets(probes []*proxyapi.Probe) ([]probe.Target, map[string]string) {
	targets := make([]probe.Target, 0, len(probes))
	bad := map[string]string{}
	for _, p := range probes {
		t, err := probeTarget(p)
		if err != nil {
			bad[p.GetId()] = err.Error()
			continue
		}
		targets = append(targets, t)
	}
	return targets, bad
}

func probeTarget(p *proxyapi.Probe) (probe.Target, error) {
	if p.GetIntervalMs() == 0 || p.GetTimeoutMs() == 0 {
		return probe.Target{}, errors.New("probe without interval or timeout")
	}
	t := probe.Target{
		ID:        p.GetId(),
		Interval:  time.Duration(p.GetIntervalMs()) * time.Millisecond,
		Timeout:   time.Duration(p.GetTimeoutMs()) * time.Millisecond,
		IngressOf: federation.ClusterID(p.GetIngressOf()),
	}
	for _, s := range p.GetAddrs() {
		addr, err := netip.ParseAddrPort(s)
		if err != nil {
			return probe.Target{}, fmt.Errorf("probe address: %w", err)
		}
		t.Addrs = append(t.Addrs, addr)
	}
	if err := parseCheck(p, &t); err != nil {
		return probe.Target{}, err
	}
	return t, nil
}

// parseProtocol accepts what federation knows.
func parseProtocol(s string) (federation.Protocol, error) {
	switch p := federation.Protocol(s); p {
	case federation.TCP, federation.UDP:
		return p, nil
	}
	return "", fmt.Errorf("protocol %q: use %s or %s", s, federation.TCP, federation.UDP)
}
