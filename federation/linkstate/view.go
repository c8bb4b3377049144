package linkstate

import (
	"cmp"
	"maps"
	"slices"
)

// Change is an edit of a view. Without a resource it takes the key away.
type Change struct {
	Key      string
	Resource *Resource
}

// View is what one member is told: its resources, with a log of the versions that changed them. Use [NewView].
//
// A view of version 0 says nothing yet, which is not the same as that there is nothing: a hub that does not know what there
// is keeps silent, and its members go by what they know.
//
// The law: a [State] that is brought from any version of a view to a later one by [View.Since] has the view's resources.
type View struct {
	version   uint64
	resources map[string]*Resource
	// log are the versions that changed something, with what they changed, oldest first; begins is the version before
	// it. A key stands there as often as it changed; only its last entry counts.
	log    []logged
	begins uint64
}

type logged struct {
	version uint64
	key     string
}

// NewView returns a view that says nothing yet.
func NewView() *View { return &View{resources: map[string]*Resource{}} }

// Version returns the view's version, 0 if it says nothing yet.
func (v *View) Version() uint64 { return v.version }

// Open has a view that says nothing yet say what it has from now on, be it that there is nothing. It reports whether
// that makes a difference.
func (v *View) Open() bool {
	if v.version > 0 {
		return false
	}
	v.version, v.begins = 1, 1
	return true
}

// Clear takes all resources away, as of a member that left. It reports whether that makes a difference.
func (v *View) Clear() bool {
	changes := make([]Change, 0, len(v.resources))
	for _, key := range slices.Sorted(maps.Keys(v.resources)) {
		changes = append(changes, Change{Key: key})
	}
	return v.Edit(changes)
}

// Edit makes the changes. If any of them makes a difference, it moves to the next version and returns true. The
// resources are kept and must not be changed any more.
func (v *View) Edit(changes []Change) bool {
	next, changed := v.version+1, false
	for _, c := range changes {
		old, had := v.resources[c.Key]
		switch {
		case c.Resource == nil && had:
			delete(v.resources, c.Key)
		case c.Resource != nil && (!had || !old.Equal(*c.Resource)):
			v.resources[c.Key] = c.Resource
		default:
			continue
		}
		v.log = append(v.log, logged{version: next, key: c.Key})
		changed = true
	}
	if !changed {
		return false
	}
	v.version, v.begins = next, max(v.begins, 1)
	v.trim()
	return true
}

// trim forgets the older half of a log that has become longer than what it is about. Who is that far behind is told
// everything.
func (v *View) trim() {
	if len(v.log) <= 2*len(v.resources)+64 {
		return
	}
	cut := v.log[len(v.log)/2].version
	i, _ := slices.BinarySearchFunc(v.log, cut, func(l logged, version uint64) int { return cmp.Compare(l.version, version) })
	for ; i < len(v.log) && v.log[i].version == cut; i++ { // its other changes too, or one large version could not be forgotten
	}
	v.begins, v.log = cut, slices.Clone(v.log[i:])
}

// Since returns what brings a state from a version to this one, without an epoch; work and size are proportional to
// what changed. A version that the log does not reach back to, one that is newer than the view's, and 0 need
// everything. A view that says nothing yet has nothing to send, not even that there is nothing.
func (v *View) Since(version uint64) Update {
	if v.version == 0 {
		return Update{}
	}
	u := Update{Version: v.version, Full: version < v.begins || version > v.version}
	if u.Full {
		for _, r := range v.resources {
			u.Upserts = append(u.Upserts, *r)
		}
	} else {
		u.Base = version
		u.Upserts, u.Removed = v.changes(version)
	}
	slices.SortFunc(u.Upserts, func(a, b Resource) int { return cmp.Compare(a.Key(), b.Key()) })
	return u
}

// changes returns the resources that were put or taken away after the version, each once.
func (v *View) changes(version uint64) (upserts []Resource, removed []string) {
	i, _ := slices.BinarySearchFunc(v.log, version+1, func(l logged, version uint64) int { return cmp.Compare(l.version, version) })
	keys := make([]string, 0, len(v.log)-i)
	for _, l := range v.log[i:] {
		keys = append(keys, l.key)
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if r, ok := v.resources[key]; ok {
			upserts = append(upserts, *r)
		} else {
			removed = append(removed, key)
		}
	}
	return upserts, removed
}
