package archive_test

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/tailgate-project/tailgate/api/store"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/archive"
	"github.com/tailgate-project/tailgate/hub/store/codec"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

var header = archive.Header{Epoch: 1_800_000_000, Taken: time.Date(2026, 3, 1, 12, 0, 0, 1, time.UTC), Journal: 40}

func yielded(objects []codec.Object) iter.Seq2[codec.Object, error] {
	return func(yield func(codec.Object, error) bool) {
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
	}
}

// sample returns objects and their archive. The journal ends with the header's number.
func sample(t testing.TB, seed uint64) ([]codec.Object, []byte) {
	t.Helper()
	var m storetest.Model
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	b := g.Batch(8)
	m.Commit(b)
	objects, err := codec.Objects(m.State())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range m.Journal {
		o, err := codec.Decision(header.Journal-uint64(len(m.Journal)-1-i), d)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects, written(t, objects)
}

func written(t testing.TB, objects []codec.Object) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Write(&b, header, yielded(objects)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	seed := storetest.Seed(t)
	for i := range uint64(20) {
		objects, b := sample(t, seed+i)
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b), "byte-by-byte": iotest.OneByteReader(bytes.NewReader(b)), "data-with-error": iotest.DataErrReader(bytes.NewReader(b))} {
			got, err := archive.Read(r)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if d := storetest.Diff(archive.Whole{Header: header, Objects: objects}, got); d != "" {
				t.Errorf("%s (-want +got)\n%s", name, d)
			}
		}
	}
}

// TestEveryDamageIsFound flips each bit, cuts behind each byte, and leaves frames out.
func TestEveryDamageIsFound(t *testing.T) {
	objects, b := sample(t, 7)
	refused := func(what string, at int, damaged []byte) {
		got, err := archive.Read(bytes.NewReader(damaged))
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrSchema) {
			t.Fatalf("%s at %d: %v", what, at, err)
		}
		if len(got.Objects) > 0 {
			t.Fatalf("%s at %d: %d objects", what, at, len(got.Objects))
		}
	}
	for at := range len(b) * 8 {
		damaged := bytes.Clone(b)
		damaged[at/8] ^= 1 << (at % 8)
		refused("a flipped bit", at, damaged)
	}
	for at := range len(b) {
		refused("cut", at, b[:at])
	}
	refused("one byte more", len(b), append(bytes.Clone(b), 0))
	for i := range len(objects) - 1 {
		swapped := slices.Clone(objects)
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
		refused("swapped objects", i, written(t, swapped))
		refused("twice the same object", i, written(t, slices.Insert(slices.Clone(objects), i, objects[i])))
	}
	last := len(objects) - 1
	refused("a journal without its end", last, written(t, objects[:last]))
	refused("a journal with a gap", last-1, written(t, slices.Delete(slices.Clone(objects), last-1, last)))
}

func TestANewerArchiveIsRefused(t *testing.T) {
	_, b := sample(t, 1)
	newer := bytes.Replace(b, []byte("tailgate-backup 1\n"), []byte("tailgate-backup 2\n"), 1)
	if _, err := archive.NewReader(bytes.NewReader(newer)); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "use the version that wrote it") {
		t.Errorf("NewReader: %v", err)
	}
}

func TestErrorsOfTheStoreAndTheStreamPassThrough(t *testing.T) {
	broken := errors.New("broken")
	objects, b := sample(t, 1)
	err := archive.Write(io.Discard, header, func(yield func(codec.Object, error) bool) {
		if yield(objects[0], nil) {
			yield(codec.Object{}, broken)
		}
	})
	if !errors.Is(err, broken) {
		t.Errorf("an object that cannot be read: %v", err)
	}
	for room := range 3 {
		w := &full{room: room * 20, err: broken}
		if err := archive.Write(w, header, yielded(objects)); !errors.Is(err, broken) {
			t.Errorf("a full disk: %v", err)
		}
	}
	for _, at := range []int{0, 5, 30, len(b) / 2} {
		r := io.MultiReader(bytes.NewReader(b[:at]), iotest.ErrReader(broken))
		if _, err := archive.Read(r); !errors.Is(err, broken) || errors.Is(err, store.ErrCorrupt) {
			t.Errorf("a stream that breaks at %d: %v", at, err)
		}
	}
}

// full takes so many bytes.
type full struct {
	room int
	err  error
}

func (f *full) Write(b []byte) (int, error) {
	if n := min(len(b), f.room); n < len(b) {
		f.room = 0
		return n, f.err
	}
	f.room -= len(b)
	return len(b), nil
}

// FuzzRead: no bytes make a reader panic, whether the checksums are right or not, and what it takes for whole it writes
// again as it was.
func FuzzRead(f *testing.F) {
	o, err := codec.Decision(2, failover.Decision{Subject: federation.Target{Cluster: "c1"}})
	if err != nil {
		f.Fatal(err)
	}
	head := message(f, &pb.Frame{Part: &pb.Frame_Header{Header: &pb.Header{Schema: codec.Schema, Epoch: 7, Journal: 2}}})
	object := message(f, &pb.Frame{Part: &pb.Frame_Object{Object: &pb.Object{Kind: uint32(o.Kind), Key: o.Key, Value: o.Value}}})
	end := message(f, &pb.Frame{Part: &pb.Frame_End{End: &pb.End{Objects: 1}}})
	f.Add(head, object, end, true)
	f.Add(head, end, end, true)
	f.Add(object, head, end, true)
	f.Add([]byte("tailgate-backup 1\n\xff\xff\xff\xff\x0f"), head, end, false)
	f.Add([]byte("tailgate-backup 1\n"), head, end, false)
	f.Fuzz(func(t *testing.T, one, two, three []byte, framed bool) {
		b := slices.Concat(one, two, three)
		if framed {
			b = archive.Framed(one, two, three)
		}
		got, err := archive.Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrSchema) {
				t.Fatalf("%v is neither ErrCorrupt nor ErrSchema", err)
			}
			return
		}
		var again bytes.Buffer
		if err := archive.Write(&again, got.Header, yielded(got.Objects)); err != nil {
			t.Fatal(err)
		}
		back, err := archive.Read(&again)
		if d := storetest.Diff(got, back); err != nil || d != "" {
			t.Fatalf("err %v (-want +got)\n%s", err, d)
		}
	})
}

func message(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// TestAFrameThatMakesNoSenseIsRefused although its checksum is right.
func TestAFrameThatMakesNoSenseIsRefused(t *testing.T) {
	frame := func(m *pb.Frame) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	header := func(schema uint32) []byte {
		return frame(&pb.Frame{Part: &pb.Frame_Header{Header: &pb.Header{Schema: schema, Journal: 1}}})
	}
	object := func(kind uint32, key string) []byte {
		return frame(&pb.Frame{Part: &pb.Frame_Object{Object: &pb.Object{Kind: kind, Key: []byte(key), Value: []byte("value")}}})
	}
	end := func(objects uint64) []byte {
		return frame(&pb.Frame{Part: &pb.Frame_End{End: &pb.End{Objects: objects}}})
	}
	for name, tc := range map[string]struct {
		frames [][]byte
		want   error
		words  string
	}{
		"no-header":     {[][]byte{end(0)}, store.ErrCorrupt, "there is no header"},
		"newer-schema":  {[][]byte{header(9), end(0)}, store.ErrSchema, "use the version that wrote it"},
		"no-message":    {[][]byte{header(codec.Schema), {0xff}}, store.ErrCorrupt, "behind 0 objects"},
		"empty-frame":   {[][]byte{header(codec.Schema), {}}, store.ErrCorrupt, "does not know what the frame is"},
		"unknown-kind":  {[][]byte{header(codec.Schema), object(77, "k")}, store.ErrCorrupt, "does not know the kind"},
		"kind-too-big":  {[][]byte{header(codec.Schema), object(1000, "k")}, store.ErrCorrupt, "kind 1000 is unknown"},
		"bad-object":    {[][]byte{header(codec.Schema), object(uint32(codec.Member), "c1")}, store.ErrCorrupt, `members "c1"`},
		"wrong-count":   {[][]byte{header(codec.Schema), end(3)}, store.ErrCorrupt, "the backup had 3 objects"},
		"header-twice":  {[][]byte{header(codec.Schema), header(codec.Schema)}, store.ErrCorrupt, "does not know what the frame is"},
		"without-end":   {[][]byte{header(codec.Schema)}, store.ErrCorrupt, "the rest is missing"},
		"behind-end":    {[][]byte{header(codec.Schema), end(0), end(0)}, store.ErrCorrupt, "something behind its end"},
		"whole-is-fine": {[][]byte{header(codec.Schema), end(0)}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := archive.Read(bytes.NewReader(archive.Framed(tc.frames...)))
			if !errors.Is(err, tc.want) || err != nil && !strings.Contains(err.Error(), tc.words) {
				t.Errorf("Read: %v, want %v, %q", err, tc.want, tc.words)
			}
		})
	}
}
