package proxyset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// The kinds of a set's objects.
const (
	kindSecret         = "Secret"
	kindServiceAccount = "ServiceAccount"
	kindRole           = "Role"
	kindRoleBinding    = "RoleBinding"
	kindService        = "Service"
	kindStatefulSet    = "StatefulSet"
	kindBudget         = "PodDisruptionBudget"
)

const (
	statusPort     = 8086
	statusPortName = "status"
	// settleSeconds is how long a new replica has to be ready before the next one is replaced: its VIPs have been announced
	// by then, and the tailnet has had time to choose it.
	settleSeconds = 10
	// revisions of the pod template are for people who want to go back.
	revisions = 3
)

// Objects returns the objects of a set in the order in which they have to be made: what a pod needs comes before the
// StatefulSet. The Secrets are without data, which is the proxies' to write.
func Objects(s Set) []client.Object {
	var out []client.Object
	for ordinal := range s.Ordinals {
		out = append(out, stateSecret(s, ordinal))
	}
	return append(out, serviceAccount(s), role(s), roleBinding(s), service(s), statefulSet(s), budget(s))
}

func typeMeta(version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

func (s Set) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: s.Namespace, Name: s.String(), Labels: s.labels(), Annotations: map[string]string{v1alpha1.AnnotationTailnet: s.Tailnet},
	}
}

func stateSecret(s Set, ordinal int32) *corev1.Secret {
	meta := s.meta()
	meta.Name = s.replica(ordinal)
	return &corev1.Secret{TypeMeta: typeMeta("v1", kindSecret), ObjectMeta: meta, Type: corev1.SecretTypeOpaque}
}

func serviceAccount(s Set) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta: typeMeta("v1", kindServiceAccount), ObjectMeta: s.meta(), AutomountServiceAccountToken: new(false), // the pods ask for it
	}
}

// role lets the proxies read and write their own Secrets. They cannot make any, nor see which there are.
func role(s Set) *rbacv1.Role {
	out := &rbacv1.Role{TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), kindRole), ObjectMeta: s.meta(), Rules: []rbacv1.PolicyRule{}}
	if s.Ordinals == 0 {
		return out // a rule without names would be for all Secrets of the namespace
	}
	rule := rbacv1.PolicyRule{APIGroups: []string{corev1.GroupName}, Resources: []string{"secrets"}, Verbs: []string{"get", "update", "patch"}}
	for ordinal := range s.Ordinals {
		rule.ResourceNames = append(rule.ResourceNames, s.replica(ordinal))
	}
	out.Rules = append(out.Rules, rule)
	return out
}

func roleBinding(s Set) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), kindRoleBinding), ObjectMeta: s.meta(),
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kindRole, Name: s.String()},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Namespace, Name: s.String()}},
	}
}

// service is headless: by its EndpointSlices the spoke learns where the ready replicas are.
func service(s Set) *corev1.Service {
	return &corev1.Service{
		TypeMeta: typeMeta("v1", kindService), ObjectMeta: s.meta(),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone, Selector: s.selector(),
			Ports: []corev1.ServicePort{{
				Name: statusPortName, Port: statusPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString(statusPortName),
			}},
		},
	}
}

func statefulSet(s Set) *appsv1.StatefulSet {
	out := &appsv1.StatefulSet{
		TypeMeta: typeMeta(appsv1.SchemeGroupVersion.String(), kindStatefulSet), ObjectMeta: s.meta(),
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(s.replicas()), ServiceName: s.String(), Selector: &metav1.LabelSelector{MatchLabels: s.selector()},
			PodManagementPolicy: appsv1.ParallelPodManagement, // no replica needs another to start
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, // one after the other, whatever the policy above says
			},
			MinReadySeconds: settleSeconds, RevisionHistoryLimit: new(int32(revisions)),
			Template: podTemplate(s),
		},
	}
	if s.Scaler != "" {
		out.Spec.Replicas = nil
	}
	return out
}

// budget lets the cluster's owner drain nodes, one proxy at a time. Replicas that are not ready do not keep a node: they
// serve nobody.
func budget(s Set) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta: typeMeta(policyv1.SchemeGroupVersion.String(), kindBudget), ObjectMeta: s.meta(),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: s.selector()},
			UnhealthyPodEvictionPolicy: new(policyv1.AlwaysAllow),
		},
	}
}
