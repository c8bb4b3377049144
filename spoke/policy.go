package spoke

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// policy is what is known of one Gateway's policy object.
type policy struct {
	want Policy
}

func (p *policy) revisionOrZero() int64 {
	if p == nil {
		return 0
	}
	return p.want.Revision
}

// Policy is the policy object that a joined Gateway should have.
type Policy struct {
	// TailscaleGateway is the object that the policy is for; the policy has its name.
	TailscaleGateway, Gateway Name
	// Hash is of the structure that Envoy Gateway should have asked for, ChangedAt when it became that.
	Hash      string
	ChangedAt time.Time
	// Revision is the one that the structure was last published under, 0 for none.
	Revision int64
	// Seen is the newest revision that a hook was called with, SeenAt when it was for the first time, and Routes how many
	// the Gateway has by it.
	Seen   int64
	SeenAt time.Time
	Routes RouteCount
}

// RouteCount is how many places a Gateway offers services at.
type RouteCount struct {
	// Ingress and Egress come from the templates of these names, CrossCluster are those below /cross-cluster/.
	Ingress, Egress, CrossCluster int
}

// wantPolicies notes for each Gateway the hash of what Envoy Gateway should have been told.
func (s *Spoke) wantPolicies(st Structure, now time.Time) {
	keep := map[Name]bool{}
	for _, g := range st.Gateways {
		keep[g.TailscaleGateway] = true
		p := s.policies[g.TailscaleGateway]
		if p == nil {
			p = &policy{}
			s.policies[g.TailscaleGateway] = p
		}
		p.want.TailscaleGateway, p.want.Gateway = g.TailscaleGateway, g.Gateway
		if h := hash(st, g.Joined); p.want.Hash != h {
			p.want.Hash, p.want.ChangedAt = h, now
		}
	}
	maps.DeleteFunc(s.policies, func(n Name, _ *policy) bool { return !keep[n] })
}

// hash stands for the structure that one Gateway is given.
func hash(st Structure, j Joined) string {
	st.Gateways = nil
	data, err := json.Marshal(struct {
		Structure
		Joined Joined
	}{st, j})
	if err != nil {
		panic(fmt.Sprintf("encode a structure of strings and numbers: %v", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// Policies returns the policies that there should be, by name.
func (s *Spoke) Policies(ctx context.Context) ([]Policy, error) {
	return ask(ctx, s, func(time.Time) []Policy {
		var out []Policy
		for _, n := range slices.SortedFunc(maps.Keys(s.policies), Name.Compare) {
			out = append(out, s.policies[n].want)
		}
		return out
	})
}

// SetRevision says that the structure with the hash is published under the revision. The policy object must be
// written only after this has returned: the hook that follows then answers with this structure or a newer one.
func (s *Spoke) SetRevision(ctx context.Context, tailscaleGateway Name, revision int64) error {
	return s.do(ctx, func(time.Time) {
		if p := s.policies[tailscaleGateway]; p != nil && p.want.Revision < revision {
			p.want.Revision = revision
			s.dirty.structure = true
		}
	})
}

// HookCall is a call of Envoy Gateway's hook.
type HookCall struct {
	At time.Time `json:"at"`
	// Policy is namespace/name of the policy object that the call brought.
	Policy string `json:"policy"`
	// Revision is the one that the policy object had.
	Revision int64 `json:"revision"`
	// Left are resources that were left out, with the reason.
	Left []string `json:"left,omitempty"`
	// Routes are those of the Gateway.
	Routes RouteCount `json:"routes,omitzero"`
}

// Hooked tells of a call of the hook.
func (s *Spoke) Hooked(ctx context.Context, h HookCall) error {
	return s.do(ctx, func(now time.Time) {
		if h.At.IsZero() {
			h.At = now
		}
		s.hooks.add(h)
		for _, p := range s.policies {
			if p.want.TailscaleGateway.String() == h.Policy {
				if h.Revision > p.want.Seen {
					p.want.Seen, p.want.SeenAt = h.Revision, h.At
				}
				p.want.Routes = h.Routes
			}
		}
		s.dirty.status = true
	})
}
