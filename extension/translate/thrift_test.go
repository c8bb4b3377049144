package translate_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/extension/translate"
)

// TestThrift lowers the limit step by step: what is over it never goes out, and what is left out is said.
func TestThrift(t *testing.T) {
	f := load(t, "testdata/in/user-routes-win.yaml")
	in, policies := f.input(t)
	t.Run("measured", func(t *testing.T) { testThrift(t, f, in, policies) })
	in.Bytes = len(encode(t, in))
	t.Run("told", func(t *testing.T) { testThrift(t, f, in, policies) })
}

func testThrift(t *testing.T, f fixture, in translate.Resources, policies []translate.Policy) {
	size := func(r translate.Resources) int { return len(encode(t, r)) }
	all, _ := translate.Translate(in, policies, f.Snapshot)
	plain, plainNotes := translate.Within(size(all)-1, in, policies, f.Snapshot)
	few, fewNotes := translate.Within(size(plain)-1, in, policies, f.Snapshot)
	none, noneNotes := translate.Within(size(few)-1, in, policies, f.Snapshot)
	for _, tc := range []struct {
		name        string
		got         translate.Resources
		notes       []translate.Note
		plain, host bool
		dotted      bool
		note        string
	}{
		{name: "whole", got: all, plain: true, dotted: true, host: true},
		{name: "plain-only", got: plain, notes: plainNotes, plain: true, host: true, note: "dotted paths"},
		{name: "any-host-only", got: few, notes: fewNotes, plain: true, note: "all paths, but for"},
		{name: "none", got: none, notes: noneNotes, note: "there are none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			has := func(vh int, path string) bool {
				if vh >= len(tc.got.Routes[0].GetVirtualHosts()) {
					return false
				}
				for _, r := range tc.got.Routes[0].GetVirtualHosts()[vh].GetRoutes() {
					if _, ok := leads(t, tc.got.Routes[0], r)[path]; ok && strings.HasPrefix(r.GetName(), translate.Prefix) {
						return true
					}
				}
				return false
			}
			if got := has(1, "/cross-cluster/webapp-cluster2"); got != tc.plain {
				t.Errorf("plain for any host: %v", got)
			}
			if got := has(1, "/cross-cluster/webapp.default.cluster2"); got != tc.dotted {
				t.Errorf("dotted for any host: %v", got)
			}
			if got := has(0, "/cross-cluster/webapp"); got != tc.host {
				t.Errorf("plain in the user's host: %v", got)
			}
			said := false
			for _, n := range tc.notes {
				said = said || strings.Contains(n.Text, tc.note)
			}
			if tc.note != "" && !said {
				t.Errorf("notes: %v", tc.notes)
			}
		})
	}
	if !proto.Equal(none.Routes[0], in.Routes[0]) {
		t.Error("the input did not come back")
	}
}
