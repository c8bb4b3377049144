package failoverpolicy_test

import (
	"testing"

	"sigs.k8s.io/randfill"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/controllers/failoverpolicy"
)

// FuzzObjects reads objects of all kinds, more than an API server would let through. Nothing may panic.
func FuzzObjects(f *testing.F) {
	for seed := range int64(30) {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, seed int64) {
		fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 4)
		objects := make([]v1alpha1.FailoverPolicy, 3)
		for i := range objects {
			fill.Fill(&objects[i].Spec)
		}
		failoverpolicy.ReadAll(objects)
	})
}
