package proxyset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// annotationApplied is a hash of what was applied. It tells whether something has to be taken away again, which a look at
// the object cannot: what the reconciler does not say may be anybody's.
const annotationApplied = v1alpha1.GroupName + "/applied"

// errBehind reports that the cache lacks an object that the API server has.
var errBehind = errors.New("the cache is behind the API server")

// id names an object of the spoke's namespace.
type id struct{ kind, name string }

func (i id) String() string { return i.kind + " " + i.name }

// refusal is a write that the API server refuses for as long as nothing changes.
type refusal struct {
	// reason is one of v1alpha1's.
	reason, message string
	// attempt is what was tried, on what. It is empty where an object is in the way that the cache does not have: nobody
	// says when that goes.
	attempt string
}

// Error implements error.
func (r refusal) Error() string { return r.message }

// pass is one call of Reconcile.
type pass struct {
	*Reconciler
	have map[id]client.Object
	// sets has the StatefulSets, and pods the pods of each set, by the labels of both.
	sets map[group]*appsv1.StatefulSet
	pods map[group][]corev1.Pod
	// kept are the objects that there should be.
	kept     map[id]bool
	refusals map[id]refusal
	says     map[event]*v1alpha1.TailscaleGateway
}

// group is what the objects of a set have in common, as their labels say.
type group struct{ tailnet, role string }

func groupOf(o client.Object) group {
	return group{o.GetLabels()[v1alpha1.LabelTailnet], o.GetLabels()[v1alpha1.LabelProxyRole]}
}

func (k Key) group() group { return group{tailnetLabel(k.Tailnet), string(k.Role)} }

// read reads all objects of proxies from the cache.
func (p *pass) read(ctx context.Context) error {
	p.have, p.sets, p.pods = map[id]client.Object{}, map[group]*appsv1.StatefulSet{}, map[group][]corev1.Pod{}
	secrets := &metav1.PartialObjectMetadataList{TypeMeta: typeMeta("v1", kindSecret+"List")}
	for kind, list := range map[string]client.ObjectList{
		kindSecret: secrets, kindServiceAccount: &corev1.ServiceAccountList{}, kindRole: &rbacv1.RoleList{}, kindRoleBinding: &rbacv1.RoleBindingList{},
		kindService: &corev1.ServiceList{}, kindStatefulSet: &appsv1.StatefulSetList{}, kindBudget: &policyv1.PodDisruptionBudgetList{},
	} {
		if err := p.Client.List(ctx, list, client.InNamespace(p.Options.Namespace), client.MatchingLabels(common())); err != nil {
			return fmt.Errorf("list the proxies' %ss: %w", kind, err)
		}
		err := meta.EachListItem(list, func(item runtime.Object) error {
			o, ok := item.(client.Object)
			if !ok {
				return fmt.Errorf("%T is no object", item)
			}
			p.have[id{kind, o.GetName()}] = o
			if sts, ok := o.(*appsv1.StatefulSet); ok {
				p.sets[groupOf(sts)] = sts
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list the proxies' %ss: %w", kind, err)
		}
	}
	var pods corev1.PodList
	if err := p.Client.List(ctx, &pods, client.InNamespace(p.Options.Namespace), client.MatchingLabels(common())); err != nil {
		return fmt.Errorf("list the proxies' Pods: %w", err)
	}
	for _, pod := range pods.Items {
		p.pods[groupOf(&pod)] = append(p.pods[groupOf(&pod)], pod)
	}
	return nil
}

// set returns what a set should be. Replicas that are not gone yet go on to have their Secrets.
func (p *pass) set(w wish, role spoke.Role) Set {
	s := Set{Key: Key{Tailnet: w.tailnet, Role: role}, Options: p.Options, Config: w.config}
	s.Ordinals = s.replicas()
	if sts := p.sets[s.group()]; sts != nil && sts.Spec.Replicas != nil {
		if by := scaler(sts); by != "" && *sts.Spec.Replicas != s.replicas() {
			s.Scaler, s.Ordinals = by, 1 // a set that was scaled to nothing keeps one, to come back as the same node
		}
		s.Ordinals = max(s.Ordinals, *sts.Spec.Replicas)
	}
	for _, pod := range p.pods[s.group()] {
		if ordinal, ok := ordinalOf(s.String(), pod.Name); ok {
			s.Ordinals = max(s.Ordinals, ordinal+1)
		}
	}
	return s
}

// ordinalOf is the replica that the name of a pod or Secret of a set stands for.
func ordinalOf(set, name string) (ordinal int32, ok bool) {
	text, ok := strings.CutPrefix(name, set+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 32)
	return int32(n), err == nil && n >= 0
}

// scaler returns who else than the spoke has set the number of replicas.
func scaler(sts *appsv1.StatefulSet) string {
	for _, m := range sts.ManagedFields {
		if m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply || m.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Spec struct {
				Replicas json.RawMessage `json:"f:replicas"`
			} `json:"f:spec"`
		}
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) == nil && fields.Spec.Replicas != nil { // what cannot be read owns nothing
			return m.Manager
		}
	}
	return ""
}

// ensure makes and mends the objects of a set, and ends at the first that cannot be: those after it need it.
func (p *pass) ensure(ctx context.Context, s Set, w wish) error {
	objects := Objects(s)
	for _, o := range objects {
		p.kept[idOf(o)] = true
	}
	for _, o := range objects {
		created, err := p.ensureOne(ctx, o)
		if err != nil {
			return err
		}
		if _, ok := o.(*appsv1.StatefulSet); ok && created {
			p.say(w.wanting, corev1.EventTypeNormal, ReasonCreated, fmt.Sprintf(
				"made StatefulSet %s/%s with %d %s proxies for TailscaleTailnet %s", s.Namespace, s, s.replicas(), s.Role, s.Tailnet))
		}
	}
	return nil
}

func idOf(o client.Object) id { return id{o.GetObjectKind().GroupVersionKind().Kind, o.GetName()} }

func (p *pass) ensureOne(ctx context.Context, want client.Object) (created bool, err error) {
	name := idOf(want)
	have := p.have[name]
	if have == nil {
		if err := p.free(ctx, name, want); err != nil {
			return false, err
		}
	}
	if secret, ok := want.(*corev1.Secret); ok {
		if have != nil {
			return false, nil // what is in it is not the spoke's
		}
		if err := p.Client.Create(ctx, secret, client.FieldOwner(manager)); apierrors.IsAlreadyExists(err) {
			return false, errBehind // the next pass sees whose it is
		} else if err != nil {
			return false, fmt.Errorf("create %s: %w", name, err)
		}
		return true, nil
	}
	if have != nil && !have.GetDeletionTimestamp().IsZero() {
		return false, nil // it is made anew when it is gone
	}
	desired, err := configuration(want)
	if err != nil {
		return false, fmt.Errorf("apply %s: %w", name, err)
	}
	if have != nil {
		same, err := agrees(have, desired)
		if err != nil || same {
			return false, err
		}
	}
	return have == nil, p.apply(ctx, name, have, desired)
}

// free fails where an object that is not in the cache exists: then it is somebody else's, or the cache is behind.
func (p *pass) free(ctx context.Context, name id, want client.Object) error {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(want.GetObjectKind().GroupVersionKind())
	err := p.Live.Get(ctx, client.ObjectKeyFromObject(want), o)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("get %s: %w", name, err)
	case mine(o.GetLabels()):
		return errBehind
	}
	return p.refuse(name, refusal{reason: v1alpha1.ReasonConflict, message: fmt.Sprintf(
		"%s in namespace %s is not the spoke's, and the proxies need an object of that name: delete it, or give it the labels %s=%s and %s=%s to hand it over",
		name, p.Options.Namespace, labelManagedBy, manager, labelComponent, component)})
}

// apply writes an object, unless just that was refused before.
func (p *pass) apply(ctx context.Context, name id, have client.Object, desired *unstructured.Unstructured) error {
	attempt := desired.GetAnnotations()[annotationApplied] + " on nothing"
	if have != nil {
		attempt = fmt.Sprintf("%s on %s", desired.GetAnnotations()[annotationApplied], have.GetResourceVersion())
		if have.GetGeneration() > 0 { // that a status changes is no reason to try again
			attempt = fmt.Sprintf("%s on generation %d of %s", desired.GetAnnotations()[annotationApplied], have.GetGeneration(), have.GetUID())
		}
	}
	if before, ok := p.refused[name]; ok && before.attempt == attempt {
		return p.refuse(name, before)
	}
	err := p.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), client.FieldOwner(manager))
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err):
		return p.refuse(name, refusal{attempt: attempt, reason: v1alpha1.ReasonConflict, message: fmt.Sprintf(
			"%s is not updated, because others have changed it: %s; undo that, or delete the object and it is made anew", name, owners(err))})
	case apierrors.IsInvalid(err):
		return p.refuse(name, refusal{attempt: attempt, reason: v1alpha1.ReasonInvalid, message: fmt.Sprintf(
			"the API server refuses %s: correct spec.tailnets[].proxy: %s", name, reasons(err))})
	}
	return fmt.Errorf("apply %s: %w", name, err)
}

func (p *pass) refuse(name id, r refusal) error {
	p.refusals[name] = r
	return r
}

// causes are the single things that the API server has against an object, sorted.
func causes(err error) []metav1.StatusCause {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	out := slices.Clone(status.Status().Details.Causes)
	slices.SortFunc(out, func(a, b metav1.StatusCause) int { return strings.Compare(a.Field+a.Message, b.Field+b.Message) })
	return out
}

// owners says which fields are whose.
func owners(err error) string {
	var out []string
	for _, c := range causes(err) {
		_, who, _ := strings.Cut(c.Message, "conflict with ")
		out = append(out, fmt.Sprintf("%s (%s)", c.Field, who))
	}
	if len(out) == 0 {
		return err.Error()
	}
	return strings.Join(out, ", ")
}

func reasons(err error) string {
	var out []string
	for _, c := range causes(err) {
		out = append(out, c.Field+": "+c.Message)
	}
	if len(out) == 0 {
		return err.Error()
	}
	return strings.Join(out, "; ")
}

// configuration is what to apply: the object as it should be, with a hash of that.
func configuration(o client.Object) (*unstructured.Unstructured, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	u := &unstructured.Unstructured{Object: fields}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	annotations := u.GetAnnotations()
	annotations[annotationApplied] = hex.EncodeToString(sum[:])[:2*hashLen]
	u.SetAnnotations(annotations)
	return u, nil
}

// agrees reports whether an object has all that was to be applied, and nothing that was applied before and should go.
func agrees(have client.Object, desired *unstructured.Unstructured) (bool, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(have)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", idOf(desired), err)
	}
	for name, want := range desired.Object {
		if name == "apiVersion" || name == "kind" { // objects of the cache have none
			continue
		}
		if !contains(fields[name], want) {
			return false, nil
		}
	}
	return true, nil
}

// contains reports whether a part of an object has all of another. Elements of a list that have names may have others
// beside them, as server-side apply leaves those of others alone.
func contains(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return len(want) == 0
		}
		for k, v := range want {
			if !contains(have[k], v) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		if !ok {
			return len(want) == 0
		}
		return containsList(have, want)
	}
	return reflect.DeepEqual(have, want)
}

func containsList(have, want []any) bool {
	names := map[any]any{}
	for _, h := range have {
		if m, ok := h.(map[string]any); ok && m["name"] != nil {
			names[m["name"]] = m
		}
	}
	for i, w := range want {
		if m, ok := w.(map[string]any); ok && m["name"] != nil {
			if !contains(names[m["name"]], w) {
				return false
			}
			continue
		}
		if len(have) != len(want) || !contains(have[i], w) {
			return false
		}
	}
	return true
}
