package index_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation/index"
)

// thing is found by its name.
type thing struct {
	name  string
	value int
}

func newIndex(hash func(string) uint32) index.Index[*thing, string] {
	return index.New(func(t *thing) string { return t.name }, hash)
}

// contents returns all that an index has, by name.
func contents(x *index.Index[*thing, string]) map[string]int {
	out := map[string]int{}
	for t := range x.All() {
		out[t.name] = t.value
	}
	return out
}

// FuzzIndex plays random puts and removals, with a hash that collides as often as the fuzzer likes, and compares with a
// map after each.
func FuzzIndex(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint32(1)<<(4*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, hashes uint32) {
		r := rand.New(rand.NewPCG(seed, 0))
		x := newIndex(func(name string) uint32 { return index.Hash(name)%max(1, hashes) + 1 })
		model := map[string]*thing{}
		for i := range 400 {
			name := fmt.Sprintf("n%d", r.IntN(60))
			if r.IntN(3) > 0 {
				model[name] = &thing{name, i}
				x.Put(model[name])
			} else {
				is, had := model[name]
				if !had {
					is = &thing{name: name}
				}
				if removed := x.Remove(is); removed != had {
					t.Fatalf("step %d: Remove(%s) is %v", i, name, removed)
				}
				delete(model, name)
			}
			if got, ok := x.Get(name); got != model[name] || ok != (model[name] != nil) || x.Len() != len(model) {
				t.Fatalf("step %d: Get(%s) is %v, %v; %d things, want %v of %d", i, name, got, ok, x.Len(), model[name], len(model))
			}
		}
		want := map[string]int{}
		for name, is := range model {
			want[name] = is.value
		}
		if d := cmp.Diff(want, contents(&x)); d != "" {
			t.Errorf("contents (-want +got)\n%s", d)
		}
	})
}

func TestRemoveLeavesWhatTookThePlace(t *testing.T) {
	x := newIndex(func(name string) uint32 { return index.Hash(name) })
	old, young := &thing{"a", 1}, &thing{"a", 2}
	x.Put(old)
	x.Put(young)
	if x.Remove(old) {
		t.Error("it took out what has the same key now")
	}
	if got, _ := x.Get("a"); got != young {
		t.Errorf("found %v", got)
	}
}

func TestACloneChangesOnItsOwn(t *testing.T) {
	x := newIndex(func(name string) uint32 { return index.Hash(name) })
	for i := range 20 {
		x.Put(&thing{fmt.Sprint(i), i})
	}
	before := contents(&x)
	c := x.Clone()
	c.Put(&thing{"new", 1})
	for t := range maps.Clone(before) {
		if is, ok := c.Get(t); ok {
			c.Remove(is)
		}
	}
	if d := cmp.Diff(before, contents(&x)); d != "" || c.Len() != 1 {
		t.Errorf("the clone has %d things, the original\n%s", c.Len(), d)
	}
}

func TestAllCanBeLeft(t *testing.T) {
	x := newIndex(func(name string) uint32 { return index.Hash(name) })
	x.Put(&thing{"a", 1})
	x.Put(&thing{"b", 2})
	for range x.All() {
		return
	}
	t.Error("nothing was yielded")
}
