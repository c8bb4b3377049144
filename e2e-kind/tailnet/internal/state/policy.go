package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// policy is the policy file: its text, byte for byte, and what this tailnet
// acts on. Access rules are checked for their form only: every node may reach
// every other, and each service guards itself by the identity of its callers.
type policy struct {
	text      string
	tagOwners map[string][]string
	routes    map[netip.Prefix][]string // approving tags
	services  map[string][]string       // by service name or tag
}

// policyFields are the top-level fields of a policy file; production refuses
// others, and so catches misspelt ones.
var policyFields = []string{
	"acls", "attrconfig", "autoapprovers", "defaultsrcposture", "derpmap", "disableipv4", "extradnsrecords",
	"grants", "groups", "hosts", "ipsets", "nodeattrs", "onecgnatroute", "postures", "randomizeclientport",
	"ssh", "sshtests", "tagowners", "tests",
}

// DefaultPolicy returns a policy file in which the tags exist and everybody
// may reach everybody. It approves nothing by itself.
func DefaultPolicy(tags []string) string {
	var b strings.Builder
	b.WriteString("// The policy file of the tailnet.\n{\n\t\"tagOwners\": {\n")
	for _, tag := range tags {
		fmt.Fprintf(&b, "\t\t%q: [\"autogroup:admin\"],\n", tag)
	}
	b.WriteString("\t},\n\t\"grants\": [{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"*\"]}],\n}\n")
	return b.String()
}

func parsePolicy(text string) (policy, error) {
	standard, err := hujson.Standardize([]byte(text))
	if err != nil {
		return policy{}, refuse(Invalid, "policy file is not HuJSON: %v", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(standard, &fields); err != nil {
		return policy{}, refuse(Invalid, "policy file is not an object: %v", err)
	}
	for name := range fields {
		if !slices.Contains(policyFields, strings.ToLower(name)) {
			return policy{}, refuse(Invalid, "policy file: unknown field %q", name)
		}
	}
	var file struct {
		TagOwners     map[string][]string
		AutoApprovers struct {
			Routes   map[string][]string
			Services map[string][]string
		}
	}
	if err := json.Unmarshal(standard, &file); err != nil {
		return policy{}, refuse(Invalid, "policy file: %v", err)
	}
	p := policy{text: text, tagOwners: file.TagOwners, services: file.AutoApprovers.Services, routes: map[netip.Prefix][]string{}}
	for tag := range p.tagOwners {
		if err := tailcfg.CheckTag(tag); err != nil {
			return policy{}, refuse(Invalid, "policy file: tagOwners: %q: %v", tag, err)
		}
	}
	for route, approvers := range file.AutoApprovers.Routes {
		prefix, err := netip.ParsePrefix(route)
		if err != nil {
			return policy{}, refuse(Invalid, "policy file: autoApprovers.routes: %v", err)
		}
		p.routes[prefix.Masked()] = approvers
		if err := p.checkApprovers("routes", route, approvers); err != nil {
			return policy{}, err
		}
	}
	return p, p.checkServices()
}

func (p policy) checkServices() error {
	for name, approvers := range p.services {
		if strings.HasPrefix(name, "tag:") {
			if !p.hasTag(name) {
				return refuse(Invalid, "policy file: autoApprovers.services: tag %q is not in tagOwners", name)
			}
		} else if err := tailcfg.ServiceName(name).Validate(); err != nil {
			return refuse(Invalid, "policy file: autoApprovers.services: %q: %v", name, err)
		}
		if err := p.checkApprovers("services", name, approvers); err != nil {
			return err
		}
	}
	return nil
}

func (p policy) checkApprovers(section, entry string, approvers []string) error {
	for _, a := range approvers {
		if !p.hasTag(a) {
			return refuse(Invalid, "policy file: autoApprovers.%s[%q]: %q is not in tagOwners (this tailnet has no users or groups)",
				section, entry, a)
		}
	}
	return nil
}

func (p policy) hasTag(tag string) bool {
	_, ok := p.tagOwners[tag]
	return ok
}

func (p policy) approvesRoute(route netip.Prefix, tags []string) bool {
	for prefix, approvers := range p.routes {
		if prefix.Bits() <= route.Bits() && prefix.Contains(route.Addr()) && shareTag(approvers, tags) {
			return true
		}
	}
	return false
}

func (p policy) approvesService(name tailcfg.ServiceName, serviceTags, deviceTags []string) bool {
	if shareTag(p.services[string(name)], deviceTags) {
		return true
	}
	return slices.ContainsFunc(serviceTags, func(tag string) bool { return shareTag(p.services[tag], deviceTags) })
}

func shareTag(a, b []string) bool {
	return slices.ContainsFunc(a, func(tag string) bool { return slices.Contains(b, tag) })
}

func (p policy) etag() string {
	sum := sha256.Sum256([]byte(p.text))
	return hex.EncodeToString(sum[:])
}

// Policy returns the policy file as it was written, and its ETag (unquoted).
func (s *State) Policy() (text, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy.text, s.policy.etag()
}

// Owns reports whether one of the tags is named as an owner of a tag.
func (s *State) Owns(owners []string, tag string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return shareTag(s.policy.tagOwners[tag], owners)
}

// SetPolicy replaces the policy file. If etag is not empty, it must be the one
// of the file to be replaced.
func (s *State) SetPolicy(text, etag string) error {
	p, err := parsePolicy(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if etag != "" && etag != s.policy.etag() {
		return refuse(Stale, "precondition failed, invalid old hash")
	}
	s.policy = p
	s.touchLocked()
	return nil
}

// ValidatePolicy says what is wrong with a policy file, without using it.
func ValidatePolicy(text string) error {
	_, err := parsePolicy(text)
	return err
}
