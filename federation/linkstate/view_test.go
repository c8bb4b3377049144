package linkstate_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation/linkstate"
)

func put(r linkstate.Resource) linkstate.Change { return linkstate.Change{Key: r.Key(), Resource: &r} }

func remove(key string) linkstate.Change { return linkstate.Change{Key: key} }

func TestViewVersions(t *testing.T) {
	a, b := notice("a", "1"), notice("b", "1")
	v := linkstate.NewView()
	for _, step := range []struct {
		name    string
		edit    func() bool
		differs bool
		version uint64
	}{
		{"nothing-to-clear", v.Clear, false, 0},
		{"nothing-to-remove", func() bool { return v.Edit([]linkstate.Change{remove("notice/a")}) }, false, 0},
		{"opens", v.Open, true, 1},
		{"opens-once", v.Open, false, 1},
		{"no-changes", func() bool { return v.Edit(nil) }, false, 1},
		{"two-changes-are-one-version", func() bool { return v.Edit([]linkstate.Change{put(a), put(b)}) }, true, 2},
		{"says-the-same", func() bool { return v.Edit([]linkstate.Change{put(notice("a", "1")), put(b)}) }, false, 2},
		{"one-of-them-differs", func() bool { return v.Edit([]linkstate.Change{put(a), put(notice("b", "2"))}) }, true, 3},
		{"clears", v.Clear, true, 4},
		{"is-clear", v.Clear, false, 4},
		{"does-not-open-again", v.Open, false, 4},
	} {
		if got := step.edit(); got != step.differs || v.Version() != step.version {
			t.Fatalf("%s: %v and version %d, want %v and %d", step.name, got, v.Version(), step.differs, step.version)
		}
	}
}

func TestSince(t *testing.T) {
	a, a2, b, c := notice("a", "1"), notice("a", "2"), notice("b", "1"), notice("c", "1")
	v := linkstate.NewView()
	if d := cmp.Diff(linkstate.Update{}, v.Since(5)); d != "" {
		t.Errorf("a view that says nothing yet (-want +got)\n%s", d)
	}
	v.Edit([]linkstate.Change{put(c), put(a2), put(b), put(a)})    // 1: of a, the last counts
	v.Edit([]linkstate.Change{remove("notice/c"), put(a2)})        // 2
	v.Edit([]linkstate.Change{remove("notice/b"), put(c), put(a)}) // 3
	v.Edit([]linkstate.Change{put(a2), remove("notice/c")})        // 4
	gone := []string{"notice/b", "notice/c"}
	for name, tc := range map[string]struct {
		version uint64
		want    linkstate.Update
	}{
		"nothing-known":    {0, linkstate.Update{Version: 4, Full: true, Upserts: []linkstate.Resource{a2}}},
		"all-changes":      {1, linkstate.Update{Version: 4, Base: 1, Upserts: []linkstate.Resource{a2}, Removed: gone}},
		"some-changes":     {2, linkstate.Update{Version: 4, Base: 2, Upserts: []linkstate.Resource{a2}, Removed: gone}},
		"the-last-change":  {3, linkstate.Update{Version: 4, Base: 3, Upserts: []linkstate.Resource{a2}, Removed: gone[1:]}},
		"the-newest":       {4, linkstate.Update{Version: 4, Base: 4}},
		"newer-than-there": {5, linkstate.Update{Version: 4, Full: true, Upserts: []linkstate.Resource{a2}}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, v.Since(tc.version)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestSinceCostsWhatChanged holds a large view that changes for long: who is close gets a delta of a few resources, who
// is far gets everything, and the log that decides this stays within bounds.
func TestSinceCostsWhatChanged(t *testing.T) {
	const size, edits = 1000, 20_000
	v := linkstate.NewView()
	for i := range size {
		v.Edit([]linkstate.Change{put(notice(fmt.Sprint(i), ""))})
	}
	for i := range edits {
		v.Edit([]linkstate.Change{put(notice(fmt.Sprint(i%size), fmt.Sprint(i)))})
		if u := v.Since(v.Version() - 3); u.Full || len(u.Upserts) != 3 {
			t.Fatalf("after %d edits: full %v with %d resources for a member that is 3 behind", i, u.Full, len(u.Upserts))
		}
	}
	if u := v.Since(v.Version() - size); u.Full {
		t.Errorf("everything is sent to a member that is %d of %d changes behind", size, edits)
	}
	if u := v.Since(v.Version() - 2*size - 65); !u.Full {
		t.Errorf("the view keeps a log of more than twice its %d resources", size)
	}
}

// TestSinceFromEveryVersion brings a state from each version there was to each later one, also where the log begins.
func TestSinceFromEveryVersion(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	v, model := linkstate.NewView(), map[string]linkstate.Resource{}
	v.Open()
	known := []linkstate.State{restored(t, 1, 1)} // by version, less one
	deltas, all := 0, 0
	for edits := range 500 {
		n := notice(fmt.Sprint(r.IntN(50)), fmt.Sprint(r.IntN(3)))
		change := put(n)
		if model[n.Key()] = n; r.IntN(3) == 0 {
			delete(model, n.Key())
			change = remove(n.Key())
		}
		if !v.Edit([]linkstate.Change{change}) {
			continue
		}
		known = append(known, bring(t, known[len(known)-1], v))
		if edits%20 > 0 {
			continue
		}
		all += len(known)
		for _, s := range known {
			if !v.Since(s.Version()).Full {
				deltas++
			}
			same(t, model, bring(t, s, v))
		}
	}
	if deltas == 0 || deltas == all {
		t.Errorf("%d of %d were deltas: want some, and some that the log does not reach", deltas, all)
	}
}

func FuzzView(f *testing.F) {
	f.Add(uint64(1), uint64(1), uint16(40))
	f.Add(uint64(2), uint64(9), uint16(400)) // the log is trimmed
	f.Add(uint64(3), uint64(27), uint16(511))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		v, model := linkstate.NewView(), map[string]linkstate.Resource{}
		var members [3]linkstate.State // each falls behind at its own pace
		for range steps % 512 {
			version := v.Version()
			changed := edit(r, v, model)
			if opened := version == 0 && v.Version() == 1; v.Version()-version > 1 || (v.Version() > version) != (changed || opened) {
				t.Fatalf("from version %d to %d by an edit that changes something: %v", version, v.Version(), changed)
			}
			for i := range members {
				if v.Version() > 0 && r.IntN(1+20*i) == 0 {
					members[i] = bring(t, members[i], v)
					same(t, model, members[i])
				}
			}
		}
	})
}

// edit changes a view and its model in the same way, and reports whether that makes a difference.
func edit(r *rand.Rand, v *linkstate.View, model map[string]linkstate.Resource) bool {
	before := maps.Clone(model)
	switch r.IntN(100) {
	case 0:
		v.Clear()
		clear(model)
	case 1:
		v.Open()
	default:
		var changes []linkstate.Change
		first := r.IntN(30)
		for i := range r.IntN(4) {
			n := notice(fmt.Sprint((first+7*i)%30), fmt.Sprint(r.IntN(2)))
			if r.IntN(3) == 0 {
				delete(model, n.Key())
				changes = append(changes, remove(n.Key()))
			} else {
				model[n.Key()] = n
				changes = append(changes, put(n))
			}
		}
		v.Edit(changes)
	}
	return !maps.EqualFunc(before, model, linkstate.Resource.Equal)
}

// bring applies to a state what a view has since the state's version.
func bring(t *testing.T, s linkstate.State, v *linkstate.View) linkstate.State {
	t.Helper()
	u := v.Since(s.Version())
	u.Epoch = 1
	next, _, err := s.Apply(u)
	if err != nil {
		t.Fatal(err)
	}
	if next.Version() != v.Version() {
		t.Fatalf("version %d of a view of version %d", next.Version(), v.Version())
	}
	if !slices.IsSorted(u.Removed) || !slices.IsSortedFunc(u.Upserts, func(a, b linkstate.Resource) int { return strings.Compare(a.Key(), b.Key()) }) {
		t.Fatalf("not sorted: %v, %v", u.Upserts, u.Removed)
	}
	for _, r := range u.Upserts {
		if _, found := slices.BinarySearch(u.Removed, r.Key()); found {
			t.Fatalf("%s is both put and removed", r.Key())
		}
	}
	return next
}

// same checks that the state has what the model has.
func same(t *testing.T, model map[string]linkstate.Resource, s linkstate.State) {
	t.Helper()
	got := map[string]linkstate.Resource{}
	for _, r := range s.Resources() {
		got[r.Key()] = r
	}
	if maps.EqualFunc(model, got, linkstate.Resource.Equal) {
		return
	}
	if d := cmp.Diff(model, got); d != "" {
		t.Fatalf("the member differs from the view (-view +member)\n%s", d)
	}
}

func TestSender(t *testing.T) {
	beat := func(epoch, version uint64) linkstate.Update {
		return linkstate.Update{Epoch: epoch, Version: version, Base: version}
	}
	a, b := notice("a", "1"), notice("b", "1")
	whole := linkstate.Update{Epoch: 7, Version: 2, Full: true, Upserts: []linkstate.Resource{a, b}}
	for name, tc := range map[string]struct {
		silent         bool // the view says nothing yet
		epoch, version uint64
		first          *linkstate.Update // at once
		then           linkstate.Update  // after a heartbeat
	}{
		"fresh-member":                  {false, 0, 0, &whole, beat(7, 2)},
		"resumes":                       {false, 7, 1, &linkstate.Update{Epoch: 7, Version: 2, Base: 1, Upserts: []linkstate.Resource{b}}, beat(7, 2)},
		"has-all":                       {false, 7, 2, nil, beat(7, 2)},
		"asks-for-everything":           {false, 7, 0, &whole, beat(7, 2)},
		"comes-from-an-older-epoch":     {false, 6, 2, &whole, beat(7, 2)},
		"comes-from-a-newer-epoch":      {false, 8, 2, &whole, beat(7, 2)},
		"is-ahead-of-the-view":          {false, 7, 9, &whole, beat(7, 2)},
		"nothing-to-say-to-a-fresh-one": {true, 0, 0, nil, beat(0, 0)},
		"nothing-to-say-to-an-old-one":  {true, 6, 12, nil, beat(6, 12)},
		"nothing-to-say-to-an-own-one":  {true, 7, 12, nil, beat(7, 12)},
	} {
		t.Run(name, func(t *testing.T) {
			v := linkstate.NewView()
			if !tc.silent {
				v.Edit([]linkstate.Change{put(a)})
				v.Edit([]linkstate.Change{put(b)})
			}
			s := linkstate.NewSender(7, time.Second, tc.epoch, tc.version, at(0))
			u, ok := s.Next(v, at(0.5))
			if ok != (tc.first != nil) {
				t.Fatalf("sends %v at once: %+v", ok, u)
			}
			due := at(1)
			if ok {
				due = at(1.5)
				if d := cmp.Diff(*tc.first, u); d != "" {
					t.Errorf("(-want +got)\n%s", d)
				}
			}
			if !s.Deadline().Equal(due) {
				t.Errorf("the next is due %v after the start, want %v", s.Deadline().Sub(start), due.Sub(start))
			}
			if u, ok := s.Next(v, due.Add(-1)); ok {
				t.Errorf("sends %+v before it is due", u)
			}
			u, ok = s.Next(v, due)
			if d := cmp.Diff(tc.then, u); d != "" || !ok {
				t.Errorf("sends %v: (-want +got)\n%s", ok, d)
			}
			if e, v := s.Position(); e != tc.then.Epoch || v != tc.then.Version {
				t.Errorf("position %d/%d after %+v", e, v, tc.then)
			}
			if !s.Deadline().Equal(due.Add(time.Second)) {
				t.Errorf("the next is due %v after the start", s.Deadline().Sub(start))
			}
		})
	}
}

// FuzzLink plays a hub that is replaced at times, and a spoke whose connections break and lose what is on its way.
// Whenever they have caught up, the spoke has what a spoke has that comes fresh, and it never went back an epoch.
func FuzzLink(f *testing.F) {
	f.Add(uint64(1), uint64(1), uint16(100))
	f.Add(uint64(5), uint64(6), uint16(300))
	f.Add(uint64(7), uint64(8), uint16(500))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		l := newPlayedLink(t, r)
		for range steps % 512 {
			l.step(r)
		}
		l.catchUp()
	})
}

type playedLink struct {
	t        *testing.T
	now      time.Time
	epoch    uint64
	view     *linkstate.View
	model    map[string]linkstate.Resource
	sender   *linkstate.Sender
	receiver linkstate.Receiver
	state    linkstate.State
	way      []linkstate.Update // sent and not arrived
}

func newPlayedLink(t *testing.T, r *rand.Rand) *playedLink {
	l := &playedLink{t: t, now: start}
	l.takeOver(r.IntN(2) == 0)
	return l
}

// takeOver has a new hub lead, which may know at once what there is.
func (l *playedLink) takeOver(knows bool) {
	l.epoch++
	l.view, l.model = linkstate.NewView(), map[string]linkstate.Resource{}
	if knows {
		l.view.Open()
	}
	l.connect()
}

// connect opens the watch anew; what was on its way is lost.
func (l *playedLink) connect() {
	epoch, version := l.receiver.Position(l.state.Epoch(), l.state.Version())
	l.sender, l.way = linkstate.NewSender(l.epoch, time.Second, epoch, version, l.now), nil
}

func (l *playedLink) step(r *rand.Rand) {
	l.now = l.now.Add(time.Duration(r.IntN(500)) * time.Millisecond)
	switch n := r.IntN(40); {
	case n == 0:
		l.takeOver(r.IntN(2) == 0)
	case n < 4:
		l.connect()
	case n == 4 && len(l.way) > 1: // not what a stream does; it must not go unnoticed
		l.way = slices.Delete(l.way, 0, 1)
	case n < 20:
		edit(r, l.view, l.model)
	case n < 30:
		l.send()
	default:
		l.arrive()
	}
}

func (l *playedLink) send() {
	if u, ok := l.sender.Next(l.view, l.now); ok {
		l.way = append(l.way, u)
	}
}

// arrive has the spoke take what comes first. After an error it connects again.
func (l *playedLink) arrive() {
	if len(l.way) == 0 {
		return
	}
	u := l.way[0]
	l.way = l.way[1:]
	next, _, err := l.state.Apply(u)
	l.receiver.Took(u, err)
	if next.Epoch() < l.state.Epoch() || (next.Epoch() == l.state.Epoch() && next.Version() < l.state.Version()) {
		l.t.Fatalf("from %d/%d back to %d/%d", l.state.Epoch(), l.state.Version(), next.Epoch(), next.Version())
	}
	l.state = next
	if err != nil {
		l.connect()
	}
}

// catchUp lets all arrive that there is.
func (l *playedLink) catchUp() {
	l.view.Open()  // sooner or later the hub knows what there is
	for range 20 { // a heartbeat each: what was lost is found by the first, and asked for anew
		l.now = l.now.Add(time.Second)
		l.send()
		for len(l.way) > 0 {
			l.arrive()
		}
	}
	if l.state.Epoch() != l.epoch || l.state.Version() != l.view.Version() {
		l.t.Fatalf("the spoke is at %d/%d, the hub at %d/%d", l.state.Epoch(), l.state.Version(), l.epoch, l.view.Version())
	}
	same(l.t, l.model, l.state)
	fresh := l.view.Since(0)
	fresh.Epoch = l.epoch
	want, _, err := linkstate.State{}.Apply(fresh)
	if err != nil {
		l.t.Fatal(err)
	}
	same(l.t, l.model, want)
}
