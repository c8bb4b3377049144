package deploy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"

	"github.com/tailgate-project/tailgate/deploy"
)

// TestHelmLint has no finding but those that are for information only.
func TestHelmLint(t *testing.T) {
	for _, name := range charts {
		for variant, v := range variants(t, name) {
			t.Run(name+"/"+variant, func(t *testing.T) {
				found := lint.AllWithKubeVersion(filepath.Join("charts", name), v, deploy.Namespace, &chartutil.KubeVersion{Version: "v1.36.0", Major: "1", Minor: "36"})
				for _, m := range found.Messages {
					if m.Severity >= support.InfoSev {
						t.Error(m)
					}
				}
			})
		}
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ chart, values, want string }{
		"unknown-value":              {deploy.Hub, "replica: 1", "additional properties 'replica' not allowed"},
		"unknown-nested-value":       {deploy.Spoke, "cluster: {name: x}", "additional properties 'name' not allowed"},
		"wrong-type":                 {deploy.Hub, "replicas: two", "got string, want integer"},
		"no-replica":                 {deploy.Hub, "replicas: 0", "minimum: got 0, want 1"},
		"several-without-etcd":       {deploy.Hub, "replicas: 2", "2 hubs need an etcd that they share, in store.etcd.endpoints"},
		"etcd-without-port":          {deploy.Hub, `store: {etcd: {endpoints: ["https://etcd"]}}`, "/store/etcd/endpoints/0"},
		"etcd-user-without-password": {deploy.Hub, `store: {etcd: {endpoints: ["https://etcd:2379"], user: x}}`, "store.etcd.user needs store.etcd.passwordSecret"},
		"latest":                     {deploy.Hub, "image: {tag: latest}", "/image/tag"},
		"digest":                     {deploy.Spoke, "image: {digest: abc}", "/image/digest"},
		"tag-without-tag":            {deploy.Hub, "spokeTag: tailgate-spoke", "/spokeTag"},
		"hub-tag":                    {deploy.Spoke, "hub: {tag: x}", "/hub/tag"},
		"two-join-keys":              {deploy.Spoke, "joinKey: {value: a, existingSecret: b}", "exclude one another"},
		"join-key-with-spaces":       {deploy.Hub, "joinKey: {value: 'a b'}", "/joinKey/value"},
		"control-url":                {deploy.Spoke, "controlURL: headscale.example.com", "/controlURL"},
		"cluster-id":                 {deploy.Spoke, "cluster: {id: Cluster_1}", "/cluster/id"},
		"cluster-id-too-long":        {deploy.Spoke, "cluster: {id: " + strings.Repeat("a", 64) + "}", "maxLength: got 64, want 63"},
		"duration":                   {deploy.Hub, "grace: 5", "/grace"},
		"duration-without-unit":      {deploy.Spoke, "drainTimeout: '20'", "/drainTimeout"},
		"egress-ports":               {deploy.Spoke, "egressPorts: '20000'", "/egressPorts"},
		"log-level":                  {deploy.Spoke, "logLevel: loud", "'debug', 'info', 'warn', 'error'"},
		"port":                       {deploy.Hub, "linkPort: 70000", "maximum: got 70,000, want 65,535"},
		"no-memory-limit":            {deploy.Spoke, "resources: {limits: {memory: null}}", "missing property 'memory'"},
		"own-bootstrap":              {deploy.Spoke, "envoyGateway: {envoyProxy: {spec: {bootstrap: {}}}}", "/envoyGateway/envoyProxy/spec/bootstrap"},
		"certificate":                {deploy.Spoke, "extension: {ca: {certificate: x}}", "/extension/ca/certificate"},
		"issuer-without-name":        {deploy.Spoke, "extension: {ca: {certManagerIssuer: {kind: Issuer}}}", "name"},
		"arg-without-dashes":         {deploy.Hub, "extraArgs: [run]", "/extraArgs/0"},
		"key-in-environment":         {deploy.Hub, "extraEnv: [{name: TAILGATE_JOIN_KEY, value: x}]", "/extraEnv/0/name"},
		"peer":                       {deploy.Spoke, "networkPolicy: {metricsFrom: [{pods: {}}]}", "/networkPolicy/metricsFrom/0"},
		"no-disruption":              {deploy.Spoke, "podDisruptionBudget: {minAvailable: 1}", "/podDisruptionBudget"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := deploy.Render(load(t, tc.chart), deploy.Options{Values: values(t, tc.values)})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// TestEveryValueHasASchema holds the schema to values.yaml: what the one has, the other describes.
func TestEveryValueHasASchema(t *testing.T) {
	for _, name := range charts {
		c := load(t, name)
		for key := range c.Values {
			if _, err := deploy.Render(c, deploy.Options{Values: map[string]any{key: "no such value"}}); err == nil {
				t.Errorf("%s: %s takes anything", name, key)
			}
		}
	}
}

func TestNotesSayWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		chart, values string
		want, not     []string
	}{
		"hub": {
			deploy.Hub, "",
			[]string{"create secret generic tailgate-hub-join-key --from-literal=authkey=", "kind: TailscaleTailnet", "name: production-tailnet", "tailgate join"},
			[]string{"reusable"},
		},
		"hub-with-key":  {deploy.Hub, "joinKey: {value: k}", []string{"kind: TailscaleTailnet"}, []string{"create secret generic tailgate-hub-join-key"}},
		"several-hubs":  {deploy.Hub, "{replicas: 2, store: {etcd: {endpoints: ['http://e:2379']}}}", []string{"reusable"}, nil},
		"spoke":         {deploy.Spoke, "", []string{"tailgate-spoke-join-key", "No cluster.id was given", "-f envoy-gateway-values.yaml", "gatewayClassName is eg"}, nil},
		"spoke-with-id": {deploy.Spoke, "{cluster: {id: c1}, joinKey: {existingSecret: s, key: k}}", []string{"generic s --from-literal=k="}, []string{"No cluster.id"}},
		"own-class":     {deploy.Spoke, "envoyGateway: {gatewayClass: {create: false}}", []string{"parametersRef of yours"}, []string{"gatewayClassName is"}},
		"cert-manager":  {deploy.Spoke, "extension: {ca: {certManagerIssuer: {name: x}}}", []string{"helm upgrade tailgate-spoke CHART"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := deploy.Notes(load(t, tc.chart), deploy.Options{Values: values(t, tc.values)})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is missing in:\n%s", want, got)
				}
			}
			for _, not := range tc.not {
				if strings.Contains(got, not) {
					t.Errorf("%q is in:\n%s", not, got)
				}
			}
		})
	}
}
