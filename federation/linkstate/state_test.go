package linkstate_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

func notice(subject, message string) linkstate.Resource {
	return linkstate.Resource{Notice: &federation.Notice{Subject: subject, Message: message}}
}

func restored(t *testing.T, epoch, version uint64, rs ...linkstate.Resource) linkstate.State {
	t.Helper()
	s, err := linkstate.Restore(epoch, version, rs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApply(t *testing.T) {
	a, a2, b, c := notice("a", "1"), notice("a", "2"), notice("b", "1"), notice("c", "1")
	type position struct{ Epoch, Version uint64 }
	for name, tc := range map[string]struct {
		state     linkstate.State
		update    linkstate.Update
		want      position
		resources []linkstate.Resource
		changed   []string
		err       error
	}{
		"first-full-update": {
			linkstate.State{}, linkstate.Update{Epoch: 1, Version: 4, Full: true, Upserts: []linkstate.Resource{a, b}},
			position{1, 4}, []linkstate.Resource{a, b}, []string{"notice/a", "notice/b"}, nil,
		},
		"delta": {
			restored(t, 1, 4, a, b), linkstate.Update{Epoch: 1, Version: 5, Upserts: []linkstate.Resource{a2, c}, Removed: []string{"notice/b"}},
			position{1, 5}, []linkstate.Resource{a2, c}, []string{"notice/a", "notice/b", "notice/c"}, nil,
		},
		"delta-that-changes-nothing-moves-the-version": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 5, Upserts: []linkstate.Resource{a}},
			position{1, 5}, []linkstate.Resource{a}, nil, nil,
		},
		"heartbeat": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 4}, position{1, 4}, []linkstate.Resource{a}, nil, nil,
		},
		"older-version-again": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 3, Upserts: []linkstate.Resource{b}},
			position{1, 4}, []linkstate.Resource{a}, nil, nil,
		},
		"older-full-again": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 3, Full: true}, position{1, 4}, []linkstate.Resource{a}, nil, nil,
		},
		"newer-epoch-full-with-a-lower-version": {
			restored(t, 1, 9, a, b), linkstate.Update{Epoch: 2, Version: 1, Full: true, Upserts: []linkstate.Resource{a}},
			position{2, 1}, []linkstate.Resource{a}, []string{"notice/b"}, nil,
		},
		"newer-epoch-delta-is-a-gap": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 2, Version: 5, Upserts: []linkstate.Resource{b}},
			position{1, 4}, []linkstate.Resource{a}, nil, linkstate.ErrGap,
		},
		"delta-on-nothing": {
			linkstate.State{}, linkstate.Update{Version: 1, Upserts: []linkstate.Resource{a}}, position{0, 1}, []linkstate.Resource{a}, []string{"notice/a"}, nil,
		},
		"delta-that-goes-on-from-an-older-version": {
			restored(t, 1, 4, a, b), linkstate.Update{Epoch: 1, Version: 6, Base: 3, Upserts: []linkstate.Resource{a2}, Removed: []string{"notice/b"}},
			position{1, 6}, []linkstate.Resource{a2}, []string{"notice/a", "notice/b"}, nil,
		},
		"delta-that-goes-on-from-a-newer-version-is-a-gap": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 6, Base: 5, Upserts: []linkstate.Resource{b}},
			position{1, 4}, []linkstate.Resource{a}, nil, linkstate.ErrGap,
		},
		"heartbeat-of-a-newer-version-is-a-gap": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 5, Base: 5}, position{1, 4}, []linkstate.Resource{a}, nil, linkstate.ErrGap,
		},
		"full-update-with-a-key-twice": {
			restored(t, 1, 4, a), linkstate.Update{Epoch: 1, Version: 5, Full: true, Upserts: []linkstate.Resource{b, b}},
			position{1, 4}, []linkstate.Resource{a}, nil, linkstate.ErrKey,
		},
		"older-epoch-is-refused": {
			restored(t, 2, 4, a), linkstate.Update{Epoch: 1, Version: 50, Full: true},
			position{2, 4}, []linkstate.Resource{a}, nil, linkstate.ErrOldEpoch,
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := tc.state.Resources()
			got, changed, err := tc.state.Apply(tc.update)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if d := cmp.Diff(tc.want, position{got.Epoch(), got.Version()}); d != "" {
				t.Errorf("position (-want +got)\n%s", d)
			}
			if d := cmp.Diff(tc.resources, got.Resources()); d != "" {
				t.Errorf("resources (-want +got)\n%s", d)
			}
			for _, r := range tc.resources {
				if found, ok := got.Get(r.Key()); !ok || !found.Equal(r) {
					t.Errorf("%s is %v, there %v", r.Key(), found, ok)
				}
			}
			if d := cmp.Diff(tc.changed, changed); d != "" {
				t.Errorf("changed (-want +got)\n%s", d)
			}
			if d := cmp.Diff(before, tc.state.Resources()); d != "" {
				t.Errorf("the old state was changed:\n%s", d)
			}
		})
	}
}

func TestRestoreRefusesWhatItCannotKey(t *testing.T) {
	for name, rs := range map[string][]linkstate.Resource{
		"twice": {notice("a", ""), notice("a", "x")},
		"empty": {{}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := linkstate.Restore(1, 1, rs); !errors.Is(err, linkstate.ErrKey) {
				t.Errorf("error %v, want %v", err, linkstate.ErrKey)
			}
		})
	}
}

// history is a hub's state over time: the full resources at each version.
type history []map[string]linkstate.Resource

func newHistory(r *rand.Rand, versions int) history {
	h := history{{}}
	for range versions {
		next := map[string]linkstate.Resource{}
		maps.Copy(next, h[len(h)-1])
		for range 1 + r.IntN(3) {
			n := notice(fmt.Sprint(r.IntN(5)), fmt.Sprint(r.IntN(3)))
			if r.IntN(3) == 0 {
				delete(next, n.Key())
			} else {
				next[n.Key()] = n
			}
		}
		h = append(h, next)
	}
	return h
}

// update makes what a hub would send from version a to b of the history; from 0 it is a full update.
func (h history) update(a, b int) linkstate.Update {
	u := linkstate.Update{Epoch: 1, Version: uint64(b), Full: a == 0}
	for k, v := range h[b] {
		if old, ok := h[a][k]; u.Full || !ok || !old.Equal(v) {
			u.Upserts = append(u.Upserts, v)
		}
	}
	for k := range h[a] {
		if _, ok := h[b][k]; !ok {
			u.Removed = append(u.Removed, k)
		}
	}
	return u
}

func FuzzApplyLaws(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(77), uint64(3))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		h := newHistory(r, 12)
		full, _, err := linkstate.State{}.Apply(h.update(0, 12))
		if err != nil {
			t.Fatal(err)
		}
		// By resuming: some versions are skipped, as when updates are coalesced, and some come twice.
		resumed, at := linkstate.State{}, 0
		for at < 12 {
			to := min(12, at+1+r.IntN(4))
			u := h.update(at, to)
			if resumed, _, err = resumed.Apply(u); err != nil {
				t.Fatal(err)
			}
			again, changed, err := resumed.Apply(u)
			if err != nil || len(changed) > 0 || cmp.Diff(resumed.Resources(), again.Resources()) != "" {
				t.Fatalf("not idempotent: %v, changed %v", err, changed)
			}
			if _, _, err := again.Apply(linkstate.Update{Epoch: 0, Version: 99, Full: true}); !errors.Is(err, linkstate.ErrOldEpoch) {
				t.Fatalf("an older epoch was believed: %v", err)
			}
			at = to
		}
		if d := cmp.Diff(full.Resources(), resumed.Resources()); d != "" {
			t.Errorf("resuming differs from full (-full +resumed)\n%s", d)
		}
		if full.Version() != resumed.Version() {
			t.Errorf("version %d after resuming, %d after full", resumed.Version(), full.Version())
		}
	})
}
