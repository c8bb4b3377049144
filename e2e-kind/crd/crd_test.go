// Package crd_test holds the CRDs of deploy/crds against a real API server: it takes them, admits every good object of
// api/v1alpha1/testdata, refuses every bad one with the words that a user needs, and keeps all that the Go types say.
package crd_test

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
)

const (
	crdDir  = "../../deploy/crds"
	dataDir = "../../api/v1alpha1/testdata"
)

func TestCRDs(t *testing.T) {
	cp := controlplane.ForTest(t)
	if err := cp.ApplyFiles(t.Context(), glob(t, crdDir+"/*.yaml")...); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cp.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("good", func(t *testing.T) {
		for _, file := range glob(t, dataDir+"/*/good*.yaml") {
			t.Run(caseName(file), func(t *testing.T) {
				object, _ := load(t, file)
				if err := c.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
					t.Error(err)
				}
			})
		}
	})
	t.Run("bad", func(t *testing.T) {
		for _, file := range glob(t, dataDir+"/*/bad-*.yaml") {
			t.Run(caseName(file), func(t *testing.T) {
				object, want := load(t, file)
				if want == "" {
					t.Fatal(`the first line has to be "# want: <part of the error>"`)
				}
				err := c.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want it to be refused as invalid with %q", err, want)
				}
			})
		}
	})
	t.Run("round-trip", func(t *testing.T) { roundTrip(t, c) })
}

// TestEveryRuleIsTested demands a bad object for each rule of our own: one that wants the beginning of the rule's message.
func TestEveryRuleIsTested(t *testing.T) {
	var wants []string
	for _, file := range glob(t, dataDir+"/*/bad-*.yaml") {
		_, want := load(t, file)
		wants = append(wants, filepath.Base(filepath.Dir(file))+": "+want)
	}
	found := 0
	for _, crd := range crds(t) {
		for _, version := range crd.Spec.Versions {
			for _, rule := range rulesOf(version.Schema.OpenAPIV3Schema) {
				found++
				tested := slices.ContainsFunc(wants, func(want string) bool {
					words, ok := strings.CutPrefix(want, crd.Spec.Names.Singular+": ")
					return ok && strings.HasPrefix(rule.Message, words)
				})
				if !tested {
					t.Errorf("%s: no bad object for the rule %q", crd.Spec.Names.Kind, rule.Message)
				}
			}
		}
	}
	if found == 0 {
		t.Error("the CRDs have no rules, so this test looks in the wrong place")
	}
}

// TestKindsHaveCRDs demands one CRD for each kind of the scheme, and none besides, so that a CRD whose type is gone does
// not stay behind.
func TestKindsHaveCRDs(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	kinds := scheme.KnownTypes(v1alpha1.GroupVersion)
	for kind := range maps.Keys(kinds) {
		if _, isObject := kinds[kind+"List"]; isObject {
			want = append(want, kind)
		}
	}
	for _, crd := range crds(t) {
		got = append(got, crd.Spec.Names.Kind)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds with a CRD (-want +got):\n%s", diff)
	}
}

// TestKubectlShowsAndExplains demands what somebody with kubectl has of each kind: a short name, a place in "kubectl get
// tailgate", columns of its own whose paths exist, and an explanation of each field.
func TestKubectlShowsAndExplains(t *testing.T) {
	short := map[string]string{}
	for _, crd := range crds(t) {
		kind, names := crd.Spec.Names.Kind, crd.Spec.Names
		if len(names.ShortNames) == 0 || !slices.Contains(names.Categories, "tailgate") {
			t.Errorf("%s has the short names %v and the categories %v, want one and tailgate", kind, names.ShortNames, names.Categories)
		}
		for _, n := range names.ShortNames {
			if other, taken := short[n]; taken {
				t.Errorf("%s and %s are both called %s", other, kind, n)
			}
			short[n] = kind
		}
		for _, version := range crd.Spec.Versions {
			root := version.Schema.OpenAPIV3Schema
			if len(version.AdditionalPrinterColumns) < 2 {
				t.Errorf("%s has the columns %v", kind, version.AdditionalPrinterColumns)
			}
			for _, column := range version.AdditionalPrinterColumns {
				if first, _, _ := strings.Cut(strings.TrimPrefix(column.JSONPath, "."), "["); !strings.HasPrefix(first, "metadata.") && !hasField(root, strings.Split(first, ".")) {
					t.Errorf("%s: the column %s shows %s, which is no field", kind, column.Name, column.JSONPath)
				}
			}
			for _, field := range unexplained(root, kind) {
				t.Errorf("kubectl explain has nothing to say about %s", field)
			}
		}
	}
}

// hasField follows a path down a schema.
func hasField(s *apiextensionsv1.JSONSchemaProps, path []string) bool {
	for _, name := range path {
		next, ok := s.Properties[name]
		if !ok {
			return false
		}
		s = &next
	}
	return true
}

// unexplained returns the fields below a schema that have no description.
func unexplained(s *apiextensionsv1.JSONSchemaProps, path string) (out []string) {
	for name, field := range s.Properties {
		below := path + "." + name
		if field.Description == "" && below != strings.Split(path, ".")[0]+".metadata" {
			out = append(out, below)
		}
		out = append(out, unexplained(&field, below)...)
	}
	if s.Items != nil && s.Items.Schema != nil {
		out = append(out, unexplained(s.Items.Schema, path)...)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		out = append(out, unexplained(s.AdditionalProperties.Schema, path)...)
	}
	return out
}

// roundTrip writes objects made of the Go types, reads them back and writes their status: nothing is dropped, and a
// struct left empty is not taken for something that a user said.
func roundTrip(t *testing.T, c client.Client) {
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: at}
	vip := v1alpha1.Address(netip.MustParseAddr("100.64.2.10").String())
	meta := metav1.ObjectMeta{Name: "round-trip", Namespace: metav1.NamespaceDefault}
	clusterMeta := metav1.ObjectMeta{Name: meta.Name}

	objects := map[string]struct {
		object client.Object
		status func(client.Object)
	}{
		"failover-policy": {
			object: &v1alpha1.FailoverPolicy{ObjectMeta: clusterMeta, Spec: v1alpha1.FailoverPolicySpec{
				Services:  &v1alpha1.FailoverServices{Names: []string{"webapp"}, MatchLabels: map[string]v1alpha1.FailoverLabelValue{"canary": ""}},
				Consumers: []v1alpha1.ClusterName{"cluster1"},
				Order:     []v1alpha1.FailoverPlace{{Cluster: "cluster2"}, {Region: "eu", Zone: "eu-1a"}},
				Weights: []v1alpha1.FailoverWeight{
					{FailoverPlace: v1alpha1.FailoverPlace{Cluster: "cluster3"}}, {FailoverPlace: v1alpha1.FailoverPlace{Region: "eu"}, Weight: 3},
				},
				MinHealthyPercent: 70, Grace: &metav1.Duration{Duration: 90 * time.Second}, FailbackDelay: &metav1.Duration{Duration: time.Minute},
				Hold: &metav1.Duration{Duration: 24 * time.Hour}, Ramp: &metav1.Duration{},
			}},
			status: func(o client.Object) {
				o.(*v1alpha1.FailoverPolicy).Status = v1alpha1.FailoverPolicyStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{ready}}
			},
		},
		"member-cluster": {
			object: &v1alpha1.MemberCluster{ObjectMeta: clusterMeta},
			status: func(o client.Object) {
				o.(*v1alpha1.MemberCluster).Status = v1alpha1.MemberClusterStatus{
					ObservedGeneration: 1, Conditions: []metav1.Condition{ready}, NodeID: "n1CNTRL", Addresses: []v1alpha1.Address{vip},
					Versions: v1alpha1.MemberVersions{Spoke: "v1", Kubernetes: "v1.36.2", EnvoyGateway: "v1.9.1"},
					LastSeen: &at, FirstJoined: &at, Epoch: 3, SnapshotVersion: 42, Exports: 7,
				}
			},
		},
		"tailscale-tailnet": {
			object: &v1alpha1.TailscaleTailnet{ObjectMeta: clusterMeta, Spec: v1alpha1.TailscaleTailnetSpec{
				WorkloadIdentity: &v1alpha1.WorkloadIdentity{ClientID: "kHubCNTRL", Audience: "api.tailscale.com/kHubCNTRL"}, Tailnet: "-",
			}},
			status: func(o client.Object) {
				o.(*v1alpha1.TailscaleTailnet).Status = v1alpha1.TailscaleTailnetStatus{
					ObservedGeneration: 1, Conditions: []metav1.Condition{ready}, DeviceCount: new(int32(0)), VIPCount: new(int32(2)), LastSyncTime: &at,
					TailnetInfo: &v1alpha1.TailnetInfo{Name: "example.com", MagicDNSSuffix: "tail1234.ts.net"},
					Credentials: &v1alpha1.TailnetCredentials{Type: v1alpha1.CredentialsWorkloadIdentity, ClientID: "kHubCNTRL", ExpiresAt: &at},
				}
			},
		},
		"tailscale-gateway": {
			object: &v1alpha1.TailscaleGateway{ObjectMeta: meta, Spec: v1alpha1.TailscaleGatewaySpec{
				GatewayRef: v1alpha1.GatewayReference{Group: gatewayv1.GroupName, Kind: "Gateway", Name: "main"},
				Tailnets: []v1alpha1.TailnetConfig{{
					Name:                "production",
					TailscaleTailnetRef: v1alpha1.TailnetReference{Group: v1alpha1.GroupName, Kind: v1alpha1.KindTailscaleTailnet, Name: "production"},
					ServiceDiscovery: &v1alpha1.ServiceDiscoveryConfig{
						Enabled: new(false), Patterns: []v1alpha1.ServicePattern{"*"}, SyncInterval: &metav1.Duration{Duration: 90 * time.Second},
					},
				}},
			}},
			status: func(o client.Object) {
				o.(*v1alpha1.TailscaleGateway).Status = v1alpha1.TailscaleGatewayStatus{
					ObservedGeneration: 1, Conditions: []metav1.Condition{ready}, ServiceCount: 1,
					Tailnets: []v1alpha1.TailnetStatus{{Name: "production", Conditions: []metav1.Condition{ready}}},
					Services: []v1alpha1.ServiceStatus{{
						Name: "local-production-webapp", TailscaleService: "svc:local-production-webapp-cluster2", VIPAddresses: []v1alpha1.Address{vip},
						OwnerCluster: "cluster2", ConsumerClusters: []v1alpha1.ClusterName{"cluster1", "cluster3"},
					}},
					GeneratedRoutes: &v1alpha1.GeneratedRoutesStatus{CrossCluster: 2, Revision: 7},
				}
			},
		},
		"tailscale-endpoints": {
			object: &v1alpha1.TailscaleEndpoints{ObjectMeta: meta, Spec: v1alpha1.TailscaleEndpointsSpec{
				Tailnet: "production",
				Endpoints: []v1alpha1.TailscaleEndpoint{{
					Name: "web", TailscaleIP: vip, Port: 80, Protocol: v1alpha1.EndpointHTTP, Weight: new(int32(0)),
				}},
				Proxy: &v1alpha1.ProxyConfig{
					Replicas: new(int32(1)), ConnectionType: v1alpha1.ConnectionEgress,
					Tolerations: []corev1.Toleration{{Key: "edge", Operator: corev1.TolerationOpExists}},
				},
			}},
			status: func(o client.Object) {
				o.(*v1alpha1.TailscaleEndpoints).Status = v1alpha1.TailscaleEndpointsStatus{
					ObservedGeneration: 1, Conditions: []metav1.Condition{ready}, TotalEndpoints: 2, DiscoveredEndpoints: 1, HealthyEndpoints: 1, LastSync: &at,
					Endpoints: []v1alpha1.EndpointStatus{{
						Name: "web", Address: vip, Health: v1alpha1.EndpointUnhealthy, Source: v1alpha1.SourceManual, Message: "connection refused",
					}},
				}
			},
		},
		"tailscale-route-policy": {
			object: &v1alpha1.TailscaleRoutePolicy{ObjectMeta: meta, Spec: v1alpha1.TailscaleRoutePolicySpec{
				TargetRefs:          []gatewayv1.LocalPolicyTargetReference{{Group: gatewayv1.GroupName, Kind: "Gateway", Name: "main"}},
				TailscaleGatewayRef: v1alpha1.LocalReference{Name: "main"},
			}},
			status: func(o client.Object) {
				o.(*v1alpha1.TailscaleRoutePolicy).Status = gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{{
					AncestorRef: gatewayv1.ParentReference{
						Group: new(gatewayv1.Group(gatewayv1.GroupName)), Kind: new(gatewayv1.Kind("Gateway")), Name: "main",
					},
					ControllerName: "gateway.envoyproxy.io/gatewayclass-controller", Conditions: []metav1.Condition{ready},
				}}}
			},
		},
	}
	for name, tt := range objects {
		t.Run(name, func(t *testing.T) {
			// Create fills the object with the server's answer; what it was is kept to compare with.
			asked := specOf(t, tt.object)
			if err := c.Create(t.Context(), tt.object); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(asked, specOf(t, tt.object)); diff != "" {
				t.Errorf("spec (-written +read):\n%s", diff)
			}
			tt.status(tt.object)
			written := fieldOf(t, tt.object, "status")
			if err := c.Status().Update(t.Context(), tt.object); err != nil {
				t.Fatal(err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(tt.object), tt.object); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(written, fieldOf(t, tt.object, "status")); diff != "" {
				t.Errorf("status (-written +read):\n%s", diff)
			}
		})
	}
}

func specOf(t *testing.T, o client.Object) any {
	t.Helper()
	return fieldOf(t, o, "spec")
}

// fieldOf returns a field of the object as the API server sees it.
func fieldOf(t *testing.T, o client.Object, name string) any {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	return fields[name]
}

// rulesOf returns the CEL rules of a schema and all below it.
func rulesOf(s *apiextensionsv1.JSONSchemaProps) []apiextensionsv1.ValidationRule {
	if s == nil {
		return nil
	}
	found := slices.Clone(s.XValidations)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		found = append(found, rulesOf(&field)...)
	}
	if s.Items != nil {
		found = append(found, rulesOf(s.Items.Schema)...)
	}
	if s.AdditionalProperties != nil {
		found = append(found, rulesOf(s.AdditionalProperties.Schema)...)
	}
	return found
}

func crds(t *testing.T) []apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	var out []apiextensionsv1.CustomResourceDefinition
	for _, file := range glob(t, crdDir+"/*.yaml") {
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(read(t, file), &crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, crd)
	}
	return out
}

// load reads an object, into the default namespace, and what its first line wants of the error.
func load(t *testing.T, file string) (object *unstructured.Unstructured, want string) {
	t.Helper()
	raw := read(t, file)
	object = &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict(raw, &object.Object); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	switch object.GetKind() {
	case v1alpha1.KindFailoverPolicy, v1alpha1.KindMemberCluster, v1alpha1.KindTailscaleTailnet:
	default:
		object.SetNamespace(metav1.NamespaceDefault)
	}
	if line, _, _ := strings.Cut(string(raw), "\n"); strings.HasPrefix(line, "# want: ") {
		want = strings.TrimPrefix(line, "# want: ")
	}
	return object, want
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no file matches %s", pattern)
	}
	return files
}

// caseName names a test after its file: kind/good-something.
func caseName(file string) string {
	return filepath.Base(filepath.Dir(file)) + "/" + strings.TrimSuffix(filepath.Base(file), ".yaml")
}
