package member

import (
	"time"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// Seen brings up to date when a connected member was last heard and what it has reached, and returns when it will be time
// again.
func Seen(status *v1alpha1.MemberClusterStatus, p Progress, now time.Time) (again time.Duration) {
	return seen(status, live{linked: true, progress: p}, now)
}
