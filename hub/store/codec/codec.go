// Package codec turns the objects that a hub keeps into the bytes that its stores hold, and back. It is the same for
// every store, so that a backup of one can be restored into another.
//
// An object is a kind, a key and a value: a message of api/store and a checksum (CRC-32C) over kind, key and message. A
// value that was damaged, or that stands under another key than its own, is not believed. Fields that this version does
// not know are passed over; an object that makes no sense is refused by its name, both ways: what could not be read
// back is never stored.
//
// The laws: an object that was encoded decodes to itself, but for times, which come back in UTC and without a monotonic
// reading, and for empty slices and maps, which come back nil; the same object always gives the same bytes; no bytes
// make a decoder panic.
package codec

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
)

// Schema is the version of what the stores keep. A store of a greater one is not opened: its hub knows better.
const Schema = 2

// Kind is a kind of object. The numbers are on users' disks.
type Kind uint8

// The kinds. Those up to [Policy] are objects of the state, [Journal] are the decisions.
const (
	VIP Kind = iota + 1
	Export
	Cluster
	Member
	Policy
	Journal
)

// Kinds are all kinds, in their order.
func Kinds() []Kind { return []Kind{VIP, Export, Cluster, Member, Policy, Journal} }

// String returns the word that stands in keys and messages.
func (k Kind) String() string {
	switch k {
	case VIP:
		return "vips"
	case Export:
		return "exports"
	case Cluster:
		return "clusters"
	case Member:
		return "members"
	case Policy:
		return "policies"
	case Journal:
		return "journal"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Object is an object as a store holds it.
type Object struct {
	Kind Kind
	// Key is never empty. Objects of one kind are ordered by it.
	Key []byte
	// Value is nil in a batch for an object that is deleted, and never empty else.
	Value []byte
}

// Compare orders objects by kind and key.
func (o Object) Compare(p Object) int {
	return cmp.Or(cmp.Compare(o.Kind, p.Kind), bytes.Compare(o.Key, p.Key))
}

// String names the object for messages.
func (o Object) String() string {
	if o.Kind == Journal {
		return fmt.Sprintf("%s %d", o.Kind, Sequence(o.Key))
	}
	return fmt.Sprintf("%s %q", o.Kind, o.Key)
}

// sumLen is the length of the checksum at the end of a value.
const sumLen = crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of a message. The key's length is part of it, so that no byte can pass from the one to the other.
func (o Object) sum(message []byte) uint32 {
	var head [1 + binary.MaxVarintLen64]byte
	head[0] = byte(o.Kind)
	n := 1 + binary.PutUvarint(head[1:], uint64(len(o.Key)))
	return crc32.Update(crc32.Update(crc32.Update(0, castagnoli, head[:n]), castagnoli, o.Key), castagnoli, message)
}

// Sum returns the checksum of a whole value. It fails with [store.ErrCorrupt] if the value is not what was stored under
// this key. That is cheaper than [Object.Check] and finds every damage, but not what was stored wrong.
func (o Object) Sum() (uint32, error) {
	if len(o.Key) == 0 || len(o.Value) < sumLen {
		return 0, fmt.Errorf("%w: %s is cut short", store.ErrCorrupt, o)
	}
	end := len(o.Value) - sumLen
	got, want := o.sum(o.Value[:end]), binary.LittleEndian.Uint32(o.Value[end:])
	if got != want {
		return 0, fmt.Errorf("%w: the checksum of %s is %08x, its value has %08x", store.ErrCorrupt, o, want, got)
	}
	return want, nil
}

// Check decodes the object and returns what is wrong with it.
func (o Object) Check() error {
	var err error
	switch o.Kind {
	case VIP:
		_, err = decodeVIP(o, nil)
	case Export:
		_, err = decodeExport(o, nil)
	case Cluster:
		_, err = decodeCluster(o, nil)
	case Member:
		_, err = decodeMember(o, nil)
	case Policy:
		_, err = decodePolicy(o, nil)
	case Journal:
		_, err = Record(o)
	default:
		err = fmt.Errorf("%w: %s: this version does not know the kind", store.ErrCorrupt, o)
	}
	return err
}

// seal returns the object with a message as its value.
func seal(kind Kind, key string, m proto.Message) (Object, error) {
	o := Object{Kind: kind, Key: []byte(key)}
	if key == "" {
		return o, fmt.Errorf("encode %s: the object has no name", kind)
	}
	var opts proto.MarshalOptions // the same message gives the same bytes: none has a map
	b := make([]byte, 0, opts.Size(m)+sumLen)
	opts.UseCachedSize = true
	b, err := opts.MarshalAppend(b, m)
	if err != nil {
		return o, fmt.Errorf("encode %s: %w", o, err)
	}
	o.Value = binary.LittleEndian.AppendUint32(b, o.sum(b))
	return o, nil
}

// unseal decodes the object's value into a message.
func (o Object) unseal(m proto.Message) error {
	if _, err := o.Sum(); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(o.Value[:len(o.Value)-sumLen], m); err != nil {
		return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, o, err)
	}
	return nil
}

// wrong is the error of an object that was decoded and makes no sense.
func (o Object) wrong(err error) error {
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, o, err)
}

// named fails if the object has another key than its content.
func (o Object) named(key string) error {
	if string(o.Key) != key {
		return o.wrong(fmt.Errorf("it is of %q", key))
	}
	return nil
}

// Changes returns what a batch changes but the journal, sorted, each object once: the last change of it. An object
// without a value is to be deleted.
func Changes(b ledger.Batch) ([]Object, error) {
	e := encoder{out: make([]Object, 0, len(b.VIPs)+len(b.Exports)+len(b.Clusters)+len(b.Members)+len(b.Policies))}
	for _, c := range b.VIPs {
		if c.Delete {
			e.remove(VIP, c.Entry.ServiceName)
		} else {
			e.put(encodeVIP(c.Entry))
		}
	}
	for k, x := range b.Exports {
		switch {
		case x == nil:
			e.remove(Export, k.String())
		case x.Export.Key != k:
			e.put(Object{}, fmt.Errorf("encode %s %q: it is of %q", Export, k, x.Export.Key))
		default:
			e.put(encodeExport(*x))
		}
	}
	for id, c := range b.Clusters {
		switch {
		case c == nil:
			e.remove(Cluster, string(id))
		case c.Cluster != id:
			e.put(Object{}, fmt.Errorf("encode %s %q: it is of %q", Cluster, id, c.Cluster))
		default:
			e.put(encodeCluster(*c))
		}
	}
	for id, m := range b.Members {
		switch {
		case m == nil:
			e.remove(Member, string(id))
		case m.Cluster != id:
			e.put(Object{}, fmt.Errorf("encode %s %q: it is of %q", Member, id, m.Cluster))
		default:
			e.put(encodeMember(*m))
		}
	}
	for name, p := range b.Policies {
		switch {
		case p == nil:
			e.remove(Policy, policyKey(name))
		case p.Name != name:
			e.put(Object{}, fmt.Errorf("encode %s %q: it is of %q", Policy, name, p.Name))
		default:
			e.put(encodePolicy(*p))
		}
	}
	return e.sorted()
}

// encoder collects objects until one cannot be encoded.
type encoder struct {
	out []Object
	err error
}

func (e *encoder) put(o Object, err error) {
	if e.err == nil {
		e.out, e.err = append(e.out, o), err
	}
}

func (e *encoder) remove(kind Kind, key string) {
	o := Object{Kind: kind, Key: []byte(key)}
	if key == "" {
		e.put(o, fmt.Errorf("delete from %s: the object has no name", kind))
		return
	}
	e.put(o, nil)
}

func (e *encoder) sorted() ([]Object, error) {
	if e.err != nil {
		return nil, e.err
	}
	slices.SortStableFunc(e.out, Object.Compare)
	last := e.out[:0]
	for i, o := range e.out {
		if i+1 == len(e.out) || o.Compare(e.out[i+1]) != 0 {
			last = append(last, o)
		}
	}
	return last, nil
}

// Objects returns the objects of a whole state, sorted: those that a batch would put which keeps all of it.
func Objects(s ledger.State) ([]Object, error) {
	var e encoder
	for _, v := range s.VIPs {
		e.put(encodeVIP(v))
	}
	for _, x := range s.Exports {
		e.put(encodeExport(x))
	}
	for _, c := range s.Clusters {
		e.put(encodeCluster(c))
	}
	for _, m := range s.Members {
		e.put(encodeMember(m))
	}
	for _, p := range s.Policies {
		e.put(encodePolicy(p))
	}
	return e.sorted()
}

// chunk is how many objects one goroutine decodes at a time.
const chunk = 4096

// State decodes the objects of a state, on all processors. Objects of one kind stay in their order; journal records are
// no part of a state and fail. It keeps nothing of the objects' memory.
func State(objects []Object) (ledger.State, error) {
	var s ledger.State
	byKind := map[Kind][]Object{}
	for kind, run := range runs(objects) {
		byKind[kind] = append(byKind[kind], run...)
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		switch objs := byKind[kind]; kind {
		case VIP:
			decodeAll(&g, objs, decodeVIP, &s.VIPs)
		case Export:
			decodeAll(&g, objs, decodeExport, &s.Exports)
		case Cluster:
			decodeAll(&g, objs, decodeCluster, &s.Clusters)
		case Member:
			decodeAll(&g, objs, decodeMember, &s.Members)
		case Policy:
			decodeAll(&g, objs, decodePolicy, &s.Policies)
		default:
			g.Go(func() error { return objs[0].wrong(fmt.Errorf("it is no part of a state")) })
		}
	}
	if err := g.Wait(); err != nil {
		return ledger.State{}, err
	}
	return s, nil
}

// runs cuts the objects where the kind changes.
func runs(objects []Object) func(yield func(Kind, []Object) bool) {
	return func(yield func(Kind, []Object) bool) {
		for start := 0; start < len(objects); {
			kind, end := objects[start].Kind, start+1
			for end < len(objects) && objects[end].Kind == kind {
				end++
			}
			if !yield(kind, objects[start:end]) {
				return
			}
			start = end
		}
	}
}

// decodeAll decodes chunks of the objects, each in a goroutine of the group.
func decodeAll[T any](g *errgroup.Group, objects []Object, decode func(Object, words) (T, error), into *[]T) {
	all := make([]T, len(objects))
	*into = all
	for start := 0; start < len(objects); start += chunk {
		g.Go(func() error {
			known := words{}
			for i := start; i < min(start+chunk, len(objects)); i++ {
				v, err := decode(objects[i], known)
				if err != nil {
					return err
				}
				all[i] = v
			}
			return nil
		})
	}
}

// words shares the strings that many objects have in common: clusters, namespaces, tailnets, ports. The nil words
// shares nothing.
type words map[string]string

func (w words) share(s string) string {
	if w == nil || s == "" {
		return s
	}
	if known, ok := w[s]; ok {
		return known
	}
	w[s] = s
	return s
}
