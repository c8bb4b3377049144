package tailscalegateway

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestPace(t *testing.T) {
	var p pace
	one, other := types.NamespacedName{Name: "one"}, types.NamespacedName{Name: "other"}
	now := time.Now()
	if got := p.wait(one, now); got != 0 {
		t.Errorf("never written: waits %v", got)
	}
	p.note(one, now)
	for after, want := range map[time.Duration]time.Duration{0: statusPause, statusPause / 2: statusPause / 2, statusPause: 0, time.Hour: 0} {
		if got := p.wait(one, now.Add(after)); got != want {
			t.Errorf("%v after it was written: waits %v, want %v", after, got, want)
		}
	}
	if got := p.wait(other, now); got != 0 {
		t.Errorf("another waits %v", got)
	}
	p.forget(one)
	if got := p.wait(one, now); got != 0 {
		t.Errorf("made anew: waits %v", got)
	}
}
