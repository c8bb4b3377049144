package tailnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	tsapi "tailscale.com/client/tailscale/v2"

	"github.com/tailgate-project/tailgate/federation"
)

// ErrForeignVIP reports a Tailscale Service that is not this federation's, or that belongs to another export. It is
// never changed.
var ErrForeignVIP = errors.New("the Tailscale Service belongs to somebody else")

// Annotations of a Tailscale Service that is a VIP. Together with its addresses they hold all that the registry needs
// to have it back.
const (
	annotationFederation = "tailgate.dev/federation"
	annotationOwner      = "tailgate.dev/owner" // cluster/Kind/namespace/name; no cluster for a federated VIP
	annotationName       = "tailgate.dev/name"
	annotationTailnet    = "tailgate.dev/tailnet"
	annotationPorts      = "tailgate.dev/ports" // name=TCP:80,name=UDP:53
)

const comment = "A VIP of Tailgate. Its hub makes, changes and deletes it; changes by hand are undone."

// mine reports whether a service is a VIP of this federation.
func (a *API) mine(s tsapi.VIPService) bool {
	return s.Annotations[annotationFederation] == a.options.Federation
}

func wireName(serviceName string) string { return "svc:" + serviceName }

// EnsureVIP brings the Tailscale Service of a VIP in line with it and returns its addresses, IPv4 first. A service that
// is not there is made, with the VIP's IPv4 address if it has one already. One that is not this VIP's is left alone, and
// the error wraps [ErrForeignVIP].
func (a *API) EnsureVIP(ctx context.Context, v federation.VIP) ([]netip.Addr, error) {
	name := wireName(v.ServiceName)
	release, err := a.writing.hold(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("put %s: %w", name, err)
	}
	defer release()
	was, err := a.reads.get(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		was = &tsapi.VIPService{Name: name}
		for _, addr := range v.Addrs {
			if addr.Is4() { // an IPv6 address cannot be chosen
				was.Addrs = append(was.Addrs, addr.String())
			}
		}
	case err != nil:
		return nil, said(err, "get %s", name)
	default:
		if err := a.own(*was, v); err != nil {
			return nil, err
		}
		if same(*was, a.wanted(*was, v)) {
			return parseAddrs(*was)
		}
	}
	want := a.wanted(*was, v)
	if err := a.client.VIPServices().CreateOrUpdate(ctx, want); err != nil {
		return nil, said(err, "put %s", name)
	}
	// There is no conditional write: of two that write at once the last one wins, and reading shows who did.
	is, err := a.reads.get(ctx, name)
	if err != nil {
		return nil, said(err, "read %s back", name)
	}
	if err := a.own(*is, v); err != nil {
		return nil, err
	}
	if !same(*is, want) || len(is.Addrs) == 0 {
		return nil, fmt.Errorf("put %s: the Tailscale API took it but has something else", name)
	}
	return parseAddrs(*is)
}

// Retag gives the VIPs with these Tailscale Service names (svc:...) the API's tags, and changes nothing else of them. What
// is gone meanwhile, or is not this federation's any more, is left out.
func (a *API) Retag(ctx context.Context, services []string) error {
	var errs []error
	for _, name := range services {
		if err := a.retag(ctx, name); err != nil {
			errs = append(errs, err)
			if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(e, ErrRejected) {
				break // it would be the same with the others
			}
		}
	}
	return errors.Join(errs...)
}

func (a *API) retag(ctx context.Context, name string) error {
	release, err := a.writing.hold(ctx, name)
	if err != nil {
		return fmt.Errorf("tag %s: %w", name, err)
	}
	defer release()
	s, err := a.reads.get(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return said(err, "get %s", name)
	case !a.mine(*s) || a.tagged(*s):
		return nil
	}
	s.Tags = sorted(a.options.Tags)
	if err := a.client.VIPServices().CreateOrUpdate(ctx, *s); err != nil {
		return said(err, "tag %s with %v", name, s.Tags)
	}
	return nil
}

// tagged reports whether a service has the API's tags.
func (a *API) tagged(s tsapi.VIPService) bool {
	return slices.Equal(sorted(s.Tags), sorted(a.options.Tags))
}

// own returns an error unless a service is the VIP.
func (a *API) own(s tsapi.VIPService, v federation.VIP) error {
	switch owner := s.Annotations[annotationOwner]; {
	case !a.mine(s):
		return fmt.Errorf("%s: %w: it is not of the federation %q; delete it in the admin console or rename the export of %s",
			s.Name, ErrForeignVIP, a.options.Federation, v.Owner)
	case owner != v.Owner.String():
		return fmt.Errorf("%s: %w: it is the VIP of %s, not of %s", s.Name, ErrForeignVIP, owner, v.Owner)
	}
	return nil
}

// wanted returns the service as it should be. Addresses must be sent back as they are, and annotations of others stay.
func (a *API) wanted(was tsapi.VIPService, v federation.VIP) tsapi.VIPService {
	annotations := maps.Clone(was.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationFederation] = a.options.Federation
	annotations[annotationOwner] = v.Owner.String()
	annotations[annotationName] = v.Name
	annotations[annotationTailnet] = v.Tailnet
	annotations[annotationPorts] = formatPorts(v.Ports)
	var ports []string
	for _, p := range v.Ports {
		ports = append(ports, strings.ToLower(string(p.Protocol))+":"+strconv.Itoa(int(p.Port)))
	}
	return tsapi.VIPService{
		Name: was.Name, Addrs: was.Addrs, Comment: comment, Annotations: annotations,
		Ports: sorted(ports), Tags: sorted(a.options.Tags),
	}
}

func sorted(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }

// same reports whether a service is as wanted. Addresses that were not asked for do not count.
func same(is, want tsapi.VIPService) bool {
	for _, addr := range want.Addrs {
		if !slices.Contains(is.Addrs, addr) {
			return false
		}
	}
	return is.Comment == want.Comment && maps.Equal(is.Annotations, want.Annotations) &&
		slices.Equal(sorted(is.Ports), want.Ports) && slices.Equal(sorted(is.Tags), want.Tags)
}

// DeleteVIP deletes the Tailscale Service of a VIP. One that is gone is no error; one that is not this federation's is
// left alone, and the error wraps [ErrForeignVIP].
func (a *API) DeleteVIP(ctx context.Context, serviceName string) error {
	name := wireName(serviceName)
	release, err := a.writing.hold(ctx, name)
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	defer release()
	s, err := a.reads.get(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return said(err, "get %s", name)
	}
	if !a.mine(*s) {
		return fmt.Errorf("delete %s: %w: it is not of the federation %q", name, ErrForeignVIP, a.options.Federation)
	}
	if err := a.client.VIPServices().Delete(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
		return said(err, "delete %s", name)
	}
	return nil
}

// ListVIPs returns the VIPs of this federation that the tailnet has, as they were given to EnsureVIP, with their
// addresses. One whose annotations somebody changed is left out; the error names it, and the others are returned with it.
func (a *API) ListVIPs(ctx context.Context) ([]federation.VIP, error) {
	all, err := a.client.VIPServices().List(ctx)
	if err != nil {
		return nil, said(err, "list services")
	}
	var vips []federation.VIP
	var errs []error
	for _, s := range all {
		if !a.mine(s) {
			continue
		}
		v, err := restore(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		vips = append(vips, v)
	}
	slices.SortFunc(vips, func(x, y federation.VIP) int { return strings.Compare(x.ServiceName, y.ServiceName) })
	return vips, errors.Join(errs...)
}

// restore reads a VIP from its service.
func restore(s tsapi.VIPService) (federation.VIP, error) {
	v := federation.VIP{
		Name: s.Annotations[annotationName], ServiceName: strings.TrimPrefix(s.Name, "svc:"), Tailnet: s.Annotations[annotationTailnet],
	}
	cluster, service, _ := strings.Cut(s.Annotations[annotationOwner], "/")
	id, idErr := federation.ParseServiceID(service)
	v.Owner = federation.ExportKey{Cluster: federation.ClusterID(cluster), Service: id}
	ports, portsErr := parsePorts(s.Annotations[annotationPorts])
	v.Ports = ports
	addrs, addrsErr := parseAddrs(s)
	v.Addrs = addrs
	var clusterErr error
	if !v.Federated() {
		clusterErr = v.Owner.Cluster.Validate()
	}
	if err := errors.Join(clusterErr, idErr, portsErr, addrsErr); err != nil {
		return federation.VIP{}, fmt.Errorf("%s is not as this federation made it: %w", s.Name, err)
	}
	return v, nil
}

// formatPorts writes ports with their names, which a Tailscale Service has no place for.
func formatPorts(ports []federation.Port) string {
	var out []string
	for _, p := range ports {
		out = append(out, p.Name+"="+string(p.Protocol)+":"+strconv.Itoa(int(p.Port)))
	}
	return strings.Join(out, ",")
}

// parsePorts reads what formatPorts wrote.
func parsePorts(s string) ([]federation.Port, error) {
	var ports []federation.Port
	for text := range strings.SplitSeq(s, ",") {
		name, rest, ok := strings.Cut(text, "=")
		protocol, number, ok2 := strings.Cut(rest, ":")
		port, err := strconv.ParseUint(number, 10, 16)
		p := federation.Protocol(protocol)
		if !ok || !ok2 || err != nil || port == 0 || p != federation.TCP && p != federation.UDP {
			return nil, fmt.Errorf("port %q: want name=TCP:80 or name=UDP:53", text)
		}
		ports = append(ports, federation.Port{Name: name, Port: uint16(port), Protocol: p})
	}
	return ports, nil
}
