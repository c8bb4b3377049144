package member_test

import (
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
)

// TestAnIdleMemberIsNotWrittenAbout follows a connected member through times in which nothing and something happens.
func TestAnIdleMemberIsNotWrittenAbout(t *testing.T) {
	var status v1alpha1.MemberClusterStatus
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	reached := member.Progress{Epoch: 1, Version: 5, Exports: 3}
	for _, step := range []struct {
		when    string
		after   time.Duration
		reached member.Progress
		written bool
		again   time.Duration
	}{
		{"it is heard for the first time", 0, reached, true, time.Minute},
		{"it has reached more soon after", 20 * time.Second, member.Progress{Epoch: 1, Version: 6, Exports: 3}, false, 40 * time.Second},
		{"a minute is over", 40 * time.Second, member.Progress{Epoch: 1, Version: 6, Exports: 3}, true, time.Minute},
		{"nothing happens for a minute", time.Minute, member.Progress{Epoch: 1, Version: 6, Exports: 3}, false, time.Minute},
		{"nor for another", time.Minute, member.Progress{Epoch: 1, Version: 6, Exports: 3}, false, time.Minute},
		{"it exports something more", time.Second, member.Progress{Epoch: 1, Version: 6, Exports: 4}, true, time.Minute},
	} {
		now = now.Add(step.after)
		before := *status.DeepCopy()
		again := member.Seen(&status, step.reached, now)
		written := status.LastSeen != nil && (before.LastSeen == nil || !before.LastSeen.Equal(status.LastSeen))
		if written != step.written || again != step.again {
			t.Errorf("%s: written %v, looked at again after %v; want %v and %v", step.when, written, again, step.written, step.again)
		}
		if written && (status.Exports != int32(step.reached.Exports) || status.SnapshotVersion != int64(step.reached.Version)) {
			t.Errorf("%s: status %+v", step.when, status)
		}
	}
}
