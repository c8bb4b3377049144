package v1alpha1_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

func TestReadServiceAnnotations(t *testing.T) {
	for _, tc := range []struct {
		name, key, value string
		want             v1alpha1.ServiceAnnotations
		problem          string // "" for none
	}{
		{"expose", v1alpha1.AnnotationExpose, "true", v1alpha1.ServiceAnnotations{Expose: new(true)}, ""},
		{"do-not-expose", v1alpha1.AnnotationExpose, "false", v1alpha1.ServiceAnnotations{Expose: new(false)}, ""},
		{"expose-yes", v1alpha1.AnnotationExpose, "yes", v1alpha1.ServiceAnnotations{}, `gateway.tailscale.com/expose is "yes"`},
		{"expose-nothing", v1alpha1.AnnotationExpose, "", v1alpha1.ServiceAnnotations{}, `write "true" or "false"`},
		{"expose-capital", v1alpha1.AnnotationExpose, "True", v1alpha1.ServiceAnnotations{}, `write "true" or "false"`},
		{"federated", v1alpha1.AnnotationFederatedVIP, "true", v1alpha1.ServiceAnnotations{FederatedVIP: true}, ""},
		{"not-federated", v1alpha1.AnnotationFederatedVIP, "false", v1alpha1.ServiceAnnotations{}, ""},
		{"federated-one", v1alpha1.AnnotationFederatedVIP, "1", v1alpha1.ServiceAnnotations{}, "gateway.tailscale.com/federated-vip"},
		{"weight", v1alpha1.AnnotationWeight, "250", v1alpha1.ServiceAnnotations{Weight: 250}, ""},
		{"least-weight", v1alpha1.AnnotationWeight, "1", v1alpha1.ServiceAnnotations{Weight: 1}, ""},
		{"most-weight", v1alpha1.AnnotationWeight, "1000", v1alpha1.ServiceAnnotations{Weight: 1000}, ""},
		{"too-much-weight", v1alpha1.AnnotationWeight, "1001", v1alpha1.ServiceAnnotations{}, "a number from 1 to 1000"},
		{"no-weight", v1alpha1.AnnotationWeight, "0", v1alpha1.ServiceAnnotations{}, "a number from 1 to 1000"},
		{"negative-weight", v1alpha1.AnnotationWeight, "-1", v1alpha1.ServiceAnnotations{}, "a number from 1 to 1000"},
		{"weight-in-words", v1alpha1.AnnotationWeight, "abc", v1alpha1.ServiceAnnotations{}, `gateway.tailscale.com/weight is "abc"`},
		{"weight-of-many-digits", v1alpha1.AnnotationWeight, "99999999999999999999", v1alpha1.ServiceAnnotations{}, "a number from 1 to 1000"},
		{"pinned", v1alpha1.AnnotationClusterPinned, "true", v1alpha1.ServiceAnnotations{ClusterPinned: true}, ""},
		{"pinned-on", v1alpha1.AnnotationClusterPinned, "on", v1alpha1.ServiceAnnotations{}, "gateway.tailscale.com/cluster-pinned"},
		{"somebody-elses", "example.com/weight", "abc", v1alpha1.ServiceAnnotations{}, ""},
		{"endless", v1alpha1.AnnotationExpose, strings.Repeat("é", 100_000), v1alpha1.ServiceAnnotations{}, "é…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, problems := v1alpha1.ReadServiceAnnotations(map[string]string{tc.key: tc.value})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			said := strings.Join(problems, "\n")
			if (said != "") != (tc.problem != "") || !strings.Contains(said, tc.problem) || len(said) > 500 {
				t.Errorf("problems %.600q, want %q in it", said, tc.problem)
			}
		})
	}
	t.Run("all-bad-at-once", func(t *testing.T) {
		_, problems := v1alpha1.ReadServiceAnnotations(map[string]string{
			v1alpha1.AnnotationExpose: "x", v1alpha1.AnnotationFederatedVIP: "x", v1alpha1.AnnotationWeight: "x", v1alpha1.AnnotationClusterPinned: "x",
		})
		if len(problems) != 4 {
			t.Errorf("problems %q, want one for each", problems)
		}
	})
}
