package tailnet

import (
	"errors"
	"testing"

	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/tailcfg"
)

func TestOperatorsHaveTheRoleThatThePolicyFileGives(t *testing.T) {
	for name, tc := range map[string]struct {
		grants []tailcfg.RawMessage
		tags   []string
		want   Operator
		err    error
	}{
		"nobody":          {err: ErrNoRole},
		"viewer":          {grants: []tailcfg.RawMessage{`{"role":"viewer"}`}, want: Operator{Name: "ada@example.com"}},
		"admin":           {grants: []tailcfg.RawMessage{`{"role":"admin"}`}, want: Operator{Name: "ada@example.com", Admin: true}},
		"both":            {grants: []tailcfg.RawMessage{`{"role":"viewer"}`, `{"role":"admin"}`}, want: Operator{Name: "ada@example.com", Admin: true}},
		"tagged":          {grants: []tailcfg.RawMessage{`{"role":"admin"}`}, tags: []string{"tag:ci"}, want: Operator{Name: "laptop.example.ts.net", Admin: true}},
		"misspelt-role":   {grants: []tailcfg.RawMessage{`{"role":"Admin"}`}, err: ErrNoRole},
		"not-even-object": {grants: []tailcfg.RawMessage{`"admin"`}, err: ErrNoRole},
	} {
		t.Run(name, func(t *testing.T) {
			who := &apitype.WhoIsResponse{
				Node:        &tailcfg.Node{Name: "laptop.example.ts.net.", Tags: tc.tags},
				UserProfile: &tailcfg.UserProfile{LoginName: "ada@example.com"},
				CapMap:      tailcfg.PeerCapMap{},
			}
			if tc.grants != nil {
				who.CapMap[OperatorCapability] = tc.grants
			}
			got, err := operator(who)
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}
