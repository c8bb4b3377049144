package etcd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/codec"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// contents are all keys under the prefix but those of hubs in the line.
func contents(t *testing.T, raw *clientv3.Client, prefix string) map[string]string {
	t.Helper()
	resp, err := raw.Get(t.Context(), prefix+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		if !strings.HasPrefix(string(kv.Key), prefix+"/leader/") {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

func put(t *testing.T, raw *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := raw.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, raw *clientv3.Client, key string) {
	t.Helper()
	resp, err := raw.Delete(t.Context(), key)
	if err != nil || resp.Deleted != 1 {
		t.Fatalf("%d keys deleted, err %v", resp.Deleted, err)
	}
}

func TestCheckFindsWhatIsBroken(t *testing.T) {
	raw := shared.client(t)
	record := func(prefix string, seq uint64) string { return prefix + "/journal/" + string(codec.SequenceKey(seq)) }
	for name, c := range map[string]struct {
		damage func(t *testing.T, prefix string)
		want   string
	}{
		"flipped-bit": {func(t *testing.T, prefix string) {
			key := prefix + "/members/c1"
			b := []byte(contents(t, raw, prefix)[key])
			b[0] ^= 1
			put(t, raw, key, string(b))
		}, `checksum of members "c1"`},
		"value-of-another-key": {func(t *testing.T, prefix string) {
			put(t, raw, prefix+"/members/c2", contents(t, raw, prefix)[prefix+"/members/c1"])
		}, `members "c2"`},
		"gap-in-the-journal":  {func(t *testing.T, prefix string) { remove(t, raw, record(prefix, 30)) }, "journal 31 stands where 30 should"},
		"journal-without-end": {func(t *testing.T, prefix string) { remove(t, raw, record(prefix, 60)) }, "ends at 59 and not at 60"},
		"left-part":           {func(t *testing.T, prefix string) { put(t, raw, prefix+"/wal/1-1/0", "x") }, "nobody wants"},
		"foreign-key":         {func(t *testing.T, prefix string) { put(t, raw, prefix+"/notes", "x") }, "no key of a store"},
		"no-head":             {func(t *testing.T, prefix string) { remove(t, raw, prefix+"/head") }, "head is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			o := shared.options(t)
			db, err := etcd.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			commit(t, db, history()[0])
			if err := db.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.damage(t, o.Prefix)
			if err := db.Check(t.Context()); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: %v, want ErrCorrupt and %q", err, c.want)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnreadableStoresAreRefusedAndKept: Open says what to do, and changes nothing.
func TestUnreadableStoresAreRefusedAndKept(t *testing.T) {
	raw := shared.client(t)
	for name, c := range map[string]struct {
		damage func(t *testing.T, prefix string)
		is     error
		want   string
	}{
		"newer-schema":  {func(t *testing.T, prefix string) { put(t, raw, prefix+"/head", string(etcd.NewHead(codec.Schema+1))) }, store.ErrSchema, "use the version that wrote it"},
		"head-cut":      {func(t *testing.T, prefix string) { put(t, raw, prefix+"/head", "x") }, store.ErrCorrupt, "restore a backup"},
		"head-flipped":  {func(t *testing.T, prefix string) { flip(t, raw, prefix+"/head") }, store.ErrCorrupt, "restore a backup"},
		"head-gone":     {func(t *testing.T, prefix string) { remove(t, raw, prefix+"/head") }, store.ErrCorrupt, "no head"},
		"journal-wrong": {func(t *testing.T, prefix string) { put(t, raw, prefix+"/head", headWith(3, 7)) }, store.ErrCorrupt, "goes from 7"},
	} {
		t.Run(name, func(t *testing.T) {
			o := shared.options(t)
			db, err := etcd.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			commit(t, db, history()[0])
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, o.Prefix)
			before := contents(t, raw, o.Prefix)
			db, err = etcd.Open(t.Context(), o)
			if err == nil {
				_ = db.Close()
			}
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), o.Prefix) {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
			if d := storetest.Diff(before, contents(t, raw, o.Prefix)); d != "" {
				t.Errorf("the store was changed (-want +got)\n%s", d)
			}
			resp, err := raw.Get(t.Context(), o.Prefix+"/leader/", clientv3.WithPrefix())
			if err != nil || len(resp.Kvs) > 0 {
				t.Errorf("the lead was kept: %d, err %v", len(resp.Kvs), err)
			}
		})
	}
}

func flip(t *testing.T, raw *clientv3.Client, key string) {
	t.Helper()
	resp, err := raw.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(resp.Kvs[0].Value)
	b[len(b)/2] ^= 4
	put(t, raw, key, string(b))
}

// headWith returns a head, sound by its checksum, of which one number is another.
func headWith(number int, n uint64) string {
	b := etcd.NewHead(codec.Schema)
	binary.BigEndian.PutUint64(b[8*number:], n)
	return string(etcd.SealHead(b))
}

// TestDamagedPartsAreRefused: a big batch that is stored in parts of which one was damaged is not applied.
func TestDamagedPartsAreRefused(t *testing.T) {
	raw := shared.client(t)
	marked := markedAt(t)
	for name, c := range map[string]struct {
		damage func(t *testing.T, key string)
		want   string
	}{
		"flipped": {func(t *testing.T, key string) { flip(t, raw, key) }, "checksum of the parts"},
		"missing": {func(t *testing.T, key string) { remove(t, raw, key) }, "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			o := shared.options(t)
			live(t, o, &killer{last: marked, answered: true}, 0)
			depose(t, raw, o)
			resp, err := raw.Get(t.Context(), o.Prefix+"/wal/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			if err != nil {
				t.Fatal(err)
			}
			c.damage(t, string(resp.Kvs[1].Key))
			before := contents(t, raw, o.Prefix)
			db, err := etcd.Open(t.Context(), o)
			if err == nil {
				_ = db.Close()
			}
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
			if d := storetest.Diff(before, contents(t, raw, o.Prefix)); d != "" {
				t.Errorf("the store was changed (-want +got)\n%s", d)
			}
		})
	}
}

// TestStoresOfBothKindsTakeInEachOthersBackups goes from bbolt to etcd and back.
func TestStoresOfBothKindsTakeInEachOthersBackups(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range history() {
		if err := db.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	var first, second bytes.Buffer
	if err := errors.Join(db.Backup(t.Context(), &first), db.Close()); err != nil {
		t.Fatal(err)
	}
	o := shared.options(t)
	if err := etcd.Restore(t.Context(), o, bytes.NewReader(first.Bytes())); err != nil {
		t.Fatal(err)
	}
	mid := open(t, o)
	if !matches(t, mid, history()) || mid.Epoch() <= db.Epoch() {
		t.Errorf("what was restored from bbolt is something else, or of epoch %d", mid.Epoch())
	}
	if err := mid.Backup(t.Context(), &second); err != nil {
		t.Fatal(err)
	}
	if err := bolt.Restore(path+".restored", &second); err != nil {
		t.Fatal(err)
	}
	back, err := bolt.Open(path+".restored", bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	want, err := mid.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := back.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := storetest.Diff(want, got); d != "" {
		t.Errorf("back in bbolt (-want +got)\n%s", d)
	}
	if err := back.Close(); err != nil {
		t.Error(err)
	}
}

// TestARestoreThatWasCutOffLeavesNothing kills restores at each request: either there is the whole store, or none, and
// then it can be restored again.
func TestARestoreThatWasCutOffLeavesNothing(t *testing.T) {
	raw := shared.client(t)
	from := shared.options(t)
	from.Prefix += "-from"
	db := open(t, from)
	for _, b := range history() {
		commit(t, db, b)
	}
	var backup bytes.Buffer
	if err := db.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	whole, none := 0, 0
	for last := 0; ; last++ {
		o := shared.options(t)
		o.Prefix = fmt.Sprintf("%s-%d", o.Prefix, last)
		ctx, cancel := context.WithCancel(t.Context())
		k := &killer{last: last, answered: true, die: cancel}
		err := etcd.Restore(ctx, o.Through(k.between), bytes.NewReader(backup.Bytes()))
		cancel()
		if err == nil {
			whole++
		} else {
			none++
			depose(t, raw, o)
			err := etcd.Restore(t.Context(), o, bytes.NewReader(backup.Bytes()))
			if err != nil && !errors.Is(err, store.ErrExists) { // the answer to the request that stored it may be what was lost
				t.Fatalf("cut off at request %d, restored again: %v", last, err)
			}
		}
		restored := open(t, o)
		if !matches(t, restored, history()) {
			t.Fatalf("cut off at request %d: it is not what was backed up", last)
		}
		if !k.died() {
			break
		}
	}
	if whole < 2 || none < 2 {
		t.Errorf("%d restores were cut off before they were stored, %d behind", none, whole)
	}
}

func TestRestoreWaitsForNobody(t *testing.T) {
	o := shared.options(t)
	db := open(t, o)
	var backup bytes.Buffer
	if err := db.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	other := o
	other.Prefix += "-other"
	put(t, shared.client(t), other.Prefix+"/leader/0", "hub-z") // a hub that is about to make the store
	err := etcd.Restore(t.Context(), other, &backup)
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "hub-z") {
		t.Errorf("Restore: %v, want ErrInUse", err)
	}
}

func FuzzSplitObjects(f *testing.F) {
	var m storetest.Model
	for _, b := range history() {
		m.Commit(b)
	}
	objects, err := codec.Objects(m.State())
	if err != nil {
		f.Fatal(err)
	}
	var b []byte
	for _, o := range objects[:3] {
		b = etcd.AppendObject(b, o)
	}
	f.Add(b)
	f.Add(etcd.AppendObject(b, codec.Object{Kind: codec.Member, Key: []byte("c1")}))
	f.Add([]byte{1, 0, 0})
	f.Add([]byte{4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		objects, err := etcd.SplitObjects(b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%v is not ErrCorrupt", err)
			}
			return
		}
		var again []byte
		for _, o := range objects {
			again = etcd.AppendObject(again, o)
		}
		back, err := etcd.SplitObjects(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := storetest.Diff(objects, back); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	})
}

func FuzzDecodeHead(f *testing.F) {
	f.Add(etcd.NewHead(codec.Schema))
	f.Add(etcd.NewHead(codec.Schema + 1))
	f.Add(etcd.SealHead(make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := etcd.DecodeHead(b)
		switch {
		case err == nil && !bytes.Equal(b, again):
			t.Errorf("%x is encoded as %x", b, again)
		case err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrSchema):
			t.Errorf("%v is neither ErrCorrupt nor ErrSchema", err)
		}
	})
}
