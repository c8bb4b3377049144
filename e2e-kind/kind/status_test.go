package kind_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/hub/verify"
	"github.com/tailgate-project/tailgate/spoke"
)

// TestVerifyReadsWhatASpokeSays: neither side may import the other, so that only here is seen that they speak of the same.
func TestVerifyReadsWhatASpokeSays(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	said, err := json.Marshal(spoke.Status{
		Cluster: "cluster1", Now: now, Link: spoke.LinkStatus{Up: true, Reason: "Connected", Message: "to the hub", Since: now.Add(-time.Hour)},
		Problems:     map[string]string{"last snapshot": "none"},
		IngressReady: true, IngressProblem: "one of two", EgressReady: true, EgressProblem: "two of three",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := verify.SpokeStatus{
		Cluster: "cluster1", Now: now, Problems: map[string]string{"last snapshot": "none"},
		IngressReady: true, IngressProblem: "one of two", EgressReady: true, EgressProblem: "two of three",
	}
	want.Link.Up, want.Link.Reason, want.Link.Message, want.Link.Since = true, "Connected", "to the hub", now.Add(-time.Hour)
	var read verify.SpokeStatus
	if err := json.Unmarshal(said, &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("read otherwise than it was said (-want +got)\n%s", diff)
	}
}
