package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// house is what a member leaves: its MemberCluster, and devices in two tailnets. It is also who tells the hub.
type house struct {
	object  *v1alpha1.MemberCluster
	devices []string // as tailnet/node
	told    []string
	// stuck is a device that is not to be had, silent an API that does not answer.
	stuck  string
	silent bool
}

func (h *house) Dismiss(ctx context.Context, _ federation.ClusterID, farewell func(context.Context, *v1alpha1.MemberCluster) (bool, error)) error {
	done, err := farewell(ctx, h.object)
	if done {
		h.object = nil
	}
	return err
}

func (h *house) RemoveCluster(context.Context, federation.ClusterID) error {
	h.told = append(h.told, "rest")
	return nil
}

func (h *house) DismissCluster(context.Context, federation.ClusterID) error {
	h.told = append(h.told, "delete")
	return nil
}

func (h *house) deleteDevice(ctx context.Context, tailnet, nodeID string) error {
	if h.silent {
		<-ctx.Done()
		return ctx.Err()
	}
	if name := tailnet + "/" + nodeID; name == h.stuck {
		return errors.New("forbidden")
	} else {
		h.devices = slices.DeleteFunc(h.devices, func(d string) bool { return d == name })
	}
	return nil
}

func newHouse() (*house, usher) {
	h := &house{object: &v1alpha1.MemberCluster{}, devices: []string{"lab/p2", "production/p1", "production/s", "production/somebodys"}}
	h.object.Status.NodeID = "s"
	h.object.Status.Devices = []v1alpha1.MemberDevice{{NodeID: "p1"}, {NodeID: "p2", Tailnet: "lab"}}
	return h, usher{members: h, hub: h, deleteDevice: h.deleteDevice, tailnet: "production", log: slog.New(slog.DiscardHandler)}
}

func (h *house) want(t *testing.T, member bool, told []string, devices ...string) {
	t.Helper()
	if (h.object != nil) != member {
		t.Errorf("a MemberCluster is there: %v, want %v", !member, member)
	}
	if diff := cmp.Diff(told, h.told); diff != "" {
		t.Errorf("told to the hub (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(devices, h.devices); diff != "" {
		t.Errorf("devices that are left (-want +got):\n%s", diff)
	}
}

func TestDismiss(t *testing.T) {
	h, u := newHouse()
	d, found, err := u.dismiss(t.Context(), "c1")
	if diff := cmp.Diff(operator.Departure{Devices: 3}, d); diff != "" || !found || err != nil {
		t.Errorf("%v, %v, departure (-want +got):\n%s", found, err, diff)
	}
	h.want(t, false, []string{"delete"}, "production/somebodys")
}

// TestDismissFinishesWhatWasLeft has a device that is not to be had at first. Its VIPs must rest until it is: the second try
// has to know of the device as the first one did.
func TestDismissFinishesWhatWasLeft(t *testing.T) {
	h, u := newHouse()
	h.stuck = "lab/p2"
	for range 2 {
		d, _, err := u.dismiss(t.Context(), "c1")
		if err != nil || !d.Resting || len(d.Left) != 2 || !strings.Contains(d.Left[0], "device p2 of TailscaleTailnet lab: forbidden") || !strings.Contains(d.Left[1], "say it again") {
			t.Errorf("%+v, %v", d, err)
		}
	}
	h.want(t, true, []string{"rest", "rest"}, "lab/p2", "production/somebodys")
	h.stuck = ""
	if d, _, err := u.dismiss(t.Context(), "c1"); err != nil || d.Resting || len(d.Left) > 0 {
		t.Errorf("%+v, %v", d, err)
	}
	h.want(t, false, []string{"rest", "rest", "delete"}, "production/somebodys")
}

// TestDismissWithoutItsMemberCluster knows no devices, so any may come back.
func TestDismissWithoutItsMemberCluster(t *testing.T) {
	h, u := newHouse()
	h.object = nil
	if _, found, err := u.dismiss(t.Context(), "c1"); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	h.want(t, false, []string{"rest"}, "lab/p2", "production/p1", "production/s", "production/somebodys")
}

// TestDismissDoesNotWaitForASilentAPI tells the others within seconds.
func TestDismissDoesNotWaitForASilentAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, u := newHouse()
		h.silent = true
		began := time.Now()
		d, _, err := u.dismiss(t.Context(), "c1")
		if took := time.Since(began); err != nil || len(d.Left) != 4 || took > 15*time.Second {
			t.Errorf("after %v: %+v, %v", took, d, err)
		}
		h.want(t, true, []string{"rest"}, "lab/p2", "production/p1", "production/s", "production/somebodys")
	})
}
