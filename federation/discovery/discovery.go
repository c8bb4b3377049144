// Package discovery decides which devices and services of a tailnet somebody has asked for.
package discovery

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// Device is a device of a tailnet.
type Device struct {
	// FQDN is its name with the tailnet's domain, without a last dot.
	FQDN string
	// Addrs are its addresses, those of IPv4 first.
	Addrs []netip.Addr
	// Tags are those that it has; none for the device of a user.
	Tags []string
}

// Name is the first label of the device's name.
func (d Device) Name() string {
	name, _, _ := strings.Cut(d.FQDN, ".")
	return name
}

// Service is a Tailscale Service.
type Service struct {
	// Name is without svc:.
	Name string
	// Addrs are its addresses, those of IPv4 first.
	Addrs []netip.Addr
	// Ports are sorted. They have no names, and what is spoken there is not known.
	Ports []federation.Port
	Tags  []string
	// Federated services are VIPs of the asker's own federation. Only their names select them.
	Federated bool
}

// Inventory is what there is in a tailnet. It is immutable.
type Inventory struct {
	Devices  []Device
	Services []Service
}

// Operator says how a selector compares tags.
type Operator string

// The operators.
const (
	// In matches who has the tag or one of the values, NotIn who has none of them.
	In    Operator = "In"
	NotIn Operator = "NotIn"
	// Exists matches who has the tag, DoesNotExist who has not.
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// TagSelector selects devices by their tags.
type TagSelector struct {
	Tag      string
	Operator Operator
	// Values are for In and NotIn.
	Values []string
}

// Matches reports whether somebody with these tags is selected.
func (s TagSelector) Matches(tags []string) bool {
	has := slices.Contains(tags, s.Tag)
	any := has || slices.ContainsFunc(s.Values, func(v string) bool { return slices.Contains(tags, v) })
	switch s.Operator {
	case In:
		return any
	case NotIn:
		return !any
	case DoesNotExist:
		return !has
	}
	return has
}

// Query is what somebody asks for.
type Query struct {
	// Selectors all have to match a device; without any there is no device in the answer.
	Selectors []TagSelector
	// Names, without svc:, and Tags select services: each that has one of them.
	Names, Tags []string
}

// Validate returns what makes no sense.
func (q Query) Validate() error {
	for _, s := range q.Selectors {
		switch s.Operator {
		case In, NotIn, Exists, DoesNotExist:
		default:
			return fmt.Errorf("operator %q: use %s, %s, %s or %s", s.Operator, In, NotIn, Exists, DoesNotExist)
		}
		if s.Tag == "" {
			return fmt.Errorf("a selector with operator %s has no tag", s.Operator)
		}
	}
	return nil
}

// Select returns what the query asks for of an inventory, sorted by name.
func (q Query) Select(all Inventory) Inventory {
	var out Inventory
	for _, d := range all.Devices {
		if len(q.Selectors) > 0 && !slices.ContainsFunc(q.Selectors, func(s TagSelector) bool { return !s.Matches(d.Tags) }) {
			out.Devices = append(out.Devices, d)
		}
	}
	for _, s := range all.Services {
		tagged := !s.Federated && slices.ContainsFunc(s.Tags, func(t string) bool { return slices.Contains(q.Tags, t) })
		if tagged || slices.Contains(q.Names, s.Name) {
			out.Services = append(out.Services, s)
		}
	}
	slices.SortFunc(out.Devices, func(a, b Device) int { return cmp.Compare(a.FQDN, b.FQDN) })
	slices.SortFunc(out.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Equal reports whether both have the same in the same order.
func (i Inventory) Equal(o Inventory) bool {
	return slices.EqualFunc(i.Devices, o.Devices, func(a, b Device) bool {
		return a.FQDN == b.FQDN && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Tags, b.Tags)
	}) && slices.EqualFunc(i.Services, o.Services, func(a, b Service) bool {
		return a.Name == b.Name && a.Federated == b.Federated && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Tags, b.Tags)
	})
}
