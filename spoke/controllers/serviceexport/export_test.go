package serviceexport

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/spoke"
)

// Judge is the pure function that the reconciler carries out.
func Judge(x *mcsv1beta1.ServiceExport, svc *corev1.Service, now spoke.Status, joined bool) []metav1.Condition {
	return judge(x, svc, newWorld(now, joined))
}
