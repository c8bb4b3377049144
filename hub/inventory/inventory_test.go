package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/hub/inventory"
)

// api is a tailnet whose devices are called after the list that found them.
type api struct {
	mu    sync.Mutex
	lists int
	err   error
}

func (a *api) list(context.Context, string) (discovery.Inventory, error) {
	time.Sleep(time.Second)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists++
	return discovery.Inventory{Devices: []discovery.Device{{FQDN: fmt.Sprint("device-", a.lists)}}}, a.err
}

func (a *api) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{}
		c := inventory.New(a.list, time.Now)
		ask := func(maxAge time.Duration) string {
			t.Helper()
			i, age, err := c.Get(t.Context(), "acme", maxAge)
			name := "nothing"
			if len(i.Devices) > 0 {
				name = i.Devices[0].FQDN
			}
			return fmt.Sprintf("%s %v %v", name, age, err)
		}
		want := func(when, got, text string) {
			t.Helper()
			if got != text {
				t.Errorf("%s: got %q, want %q", when, got, text)
			}
		}
		broken := errors.New("rate limited")
		a.fail(broken)
		want("never listed", ask(time.Minute), "nothing 0s list the tailnet: rate limited")
		want("it is not asked again at once", ask(time.Minute), "nothing 0s list the tailnet: rate limited")
		time.Sleep(5 * time.Second)
		a.fail(nil)

		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { want("ten ask at once", ask(time.Minute), "device-2 0s <nil>") })
		}
		all.Wait()
		time.Sleep(30 * time.Second)
		want("young enough", ask(time.Minute), "device-2 30s <nil>")
		want("too old for somebody", ask(10*time.Second), "device-3 0s <nil>")
		time.Sleep(time.Minute)
		a.fail(broken)
		want("too old, and it cannot be listed", ask(time.Minute), "device-3 1m1s rate limited")
		if a.lists != 4 {
			t.Errorf("listed %d times", a.lists)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Minute)
		if _, _, err := c.Get(gone, "acme", time.Second); !errors.Is(err, context.Canceled) {
			t.Errorf("somebody who has gone: %v", err)
		}
		time.Sleep(2 * time.Second) // what he began is brought to its end
	})
}
