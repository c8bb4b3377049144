package bolt_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// kills is how often the child is killed.
const kills = 200

// crashOptions keep the whole journal, whose length is the number of commits.
var crashOptions = bolt.Options{JournalLimit: 1 << 32, JournalAge: 1 << 62}

// hand is what a hub would do: the n-th event makes one batch, which depends on the state and the seed alone. So a
// second hand that does the same knows what the first one's store must hold.
type hand struct {
	seed     uint64
	registry *vip.Registry
	done     uint64
	model    storetest.Model
}

func newHand(t *testing.T, seed uint64) *hand {
	t.Helper()
	pool, err := vip.ParsePool("100.100.0.0/26")
	if err != nil {
		t.Fatal(err)
	}
	return &hand{seed: seed, registry: vip.New(vip.Options{Quarantine: 20 * time.Second, Pool: pool})}
}

// next returns the next batch: VIPs that are claimed, released or expire, exports that come and go, a decision about
// each event, and a member that says how many events there were.
func (h *hand) next(t *testing.T) ledger.Batch {
	t.Helper()
	n := h.done + 1
	rnd := rand.New(rand.NewPCG(h.seed, n))
	now := time.Unix(1_800_000_000+int64(n), 0).UTC()
	b := ledger.Batch{
		Exports: map[federation.ExportKey]*failover.Saved{},
		Members: map[federation.ClusterID]*ledger.Member{"count": {Cluster: "count", Locality: federation.Locality{Zone: strconv.FormatUint(n, 10)}}},
	}
	for range 1 + rnd.IntN(8) {
		key := federation.ExportKey{Cluster: federation.ClusterID(fmt.Sprintf("c%d", rnd.IntN(4))), Service: federation.Service("shop", fmt.Sprintf("web-%d", rnd.IntN(12)))}
		var changes []vip.Change
		if rnd.IntN(3) > 0 {
			x := federation.Export{Key: key, Tailnet: "production", Ready: rnd.IntN(5), Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}}}
			claimed, err := h.registry.PlanClaim(x, b.VIPs...)
			if err != nil {
				t.Fatal(err)
			}
			b.Exports[key] = &failover.Saved{Export: x}
			changes = claimed
		} else {
			changes = h.registry.PlanRelease(key, now)
			b.Exports[key] = nil
		}
		b.VIPs = append(b.VIPs, changes...)
		h.registry.Apply(changes)
		expired := h.registry.PlanExpire(now)
		b.VIPs = append(b.VIPs, expired...)
		h.registry.Apply(expired)
	}
	b.Journal = []failover.Decision{{At: now, Subject: federation.Target{Cluster: "c1"}, To: federation.Unhealthy, Reason: failover.Reason(fmt.Sprintf("Event%d", n))}}
	h.done = n
	h.model.Commit(b)
	return b
}

// TestCrashChild is the process that is killed. It commits until then, and says so after each commit.
func TestCrashChild(t *testing.T) {
	path := os.Getenv("STORE_CRASH_FILE")
	if path == "" {
		t.Skip("is started by TestNothingIsLostWhenTheProcessIsKilled")
	}
	seed, err := strconv.ParseUint(os.Getenv("STORE_CRASH_SEED"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, crashOptions)
	if err != nil {
		t.Fatal(err)
	}
	h := newHand(t, seed)
	state, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range state.VIPs {
		h.registry.Apply([]vip.Change{{Entry: e}})
	}
	for _, m := range state.Members {
		if h.done, err = strconv.ParseUint(m.Locality.Zone, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for {
		if err := db.Commit(t.Context(), h.next(t)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stdout, "committed %d\n", h.done)
		if h.done%32 == 0 {
			if err := db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNothingIsLostWhenTheProcessIsKilled kills a process that commits, over and over, on the same file.
func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	seed := storetest.Seed(t)
	rnd := rand.New(rand.NewPCG(seed, 1<<63))
	path := filepath.Join(t.TempDir(), "hub.db")
	h := newHand(t, seed)
	unacknowledged := 0
	for kill := range kills {
		acknowledged := max(h.done, crash(t, path, seed, rnd))
		unacknowledged += survey(t, path, h, acknowledged)
		if t.Failed() {
			t.Fatalf("after kill %d", kill+1)
		}
	}
	t.Logf("%d commits, of which %d were kept although nobody had been told", h.done, unacknowledged)
	if h.done < kills {
		t.Errorf("only %d commits between %d kills", h.done, kills)
	}
}

// crash starts the child, kills it at some moment, and returns the last commit that it told of, 0 for none.
func crash(t *testing.T, path string, seed uint64, rnd *rand.Rand) (acknowledged uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), "STORE_CRASH_FILE="+path, "STORE_CRASH_SEED="+strconv.FormatUint(seed, 10))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	told := make(chan uint64)
	go func() {
		defer close(told)
		tell(out, told)
	}()
	patience := rnd.IntN(16) // so many commits, and a moment; for none, some time from the start
	moment := time.Duration(rnd.Int64N(int64(4 * time.Millisecond)))
	if patience == 0 {
		moment *= 10
	}
	var last string
	for ; patience > 0; patience-- {
		n, ok := <-told
		if !ok {
			last = "the child ended by itself"
			break
		}
		acknowledged = n
	}
	fire := time.NewTimer(moment)
	for waiting := last == ""; waiting; {
		select {
		case n, ok := <-told:
			if waiting = ok; ok {
				acknowledged = n
			}
		case <-fire.C:
			waiting = false
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for n := range told { // what it had said before it was killed
		acknowledged = n
	}
	if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the child was not killed: %v %s", err, last)
	}
	return acknowledged
}

// tell sends the numbers of the commits that the child tells of. A line that was cut off counts for nothing.
func tell(out io.Reader, told chan<- uint64) {
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var n uint64
		if _, err := fmt.Sscanf(line, "committed %d\n", &n); err == nil {
			told <- n
		}
	}
}

// survey opens the file and compares it with what h would have stored. It returns how many commits are there although
// they were not acknowledged: one at the most.
func survey(t *testing.T, path string, h *hand, acknowledged uint64) int {
	t.Helper()
	db, err := bolt.Open(path, crashOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, db)
	state, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	records, err := db.Journal(t.Context(), h.done, 1000, federation.ServiceID{})
	if err != nil {
		t.Fatal(err)
	}
	before, stored := h.done, h.done+uint64(len(records))
	if stored < acknowledged || stored > acknowledged+1 {
		t.Errorf("%d commits were acknowledged, %d are there", acknowledged, stored)
	}
	for h.done < stored {
		h.next(t)
	}
	if d := storetest.Diff(h.model.Records(before, federation.ServiceID{}), records); d != "" {
		t.Errorf("journal (-want +got)\n%s", d)
	}
	if d := storetest.Diff(h.model.State(), state); d != "" {
		t.Errorf("state after %d commits (-want +got)\n%s", stored, d)
	}
	pool, err := vip.ParsePool("100.100.0.0/26")
	if err != nil {
		t.Fatal(err)
	}
	registry := vip.New(vip.Options{Pool: pool})
	for _, e := range state.VIPs {
		registry.Apply([]vip.Change{{Entry: e}})
	}
	for _, err := range registry.Check() {
		t.Errorf("registry: %v", err)
	}
	if registry.Len() != len(state.VIPs) {
		t.Errorf("%d VIPs are stored, %d are different ones", len(state.VIPs), registry.Len())
	}
	return int(stored - acknowledged)
}
