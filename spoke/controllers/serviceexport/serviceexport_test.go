package serviceexport_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/mcs-api/config/crd"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/serviceexport"
)

const patience = 2 * time.Minute

// heard is a spoke that knows what the test says.
type heard struct {
	mu  sync.Mutex
	now spoke.Status
	// asked counts the questions: a pass of the reconciler that has anything to do has one.
	asked int
}

func (h *heard) Status(context.Context) (spoke.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return h.now, nil
}

// writes counts the requests that change something.
type writes struct {
	next http.RoundTripper
	f    *fixture
}

func (w writes) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		w.f.mu.Lock()
		w.f.writes = append(w.f.writes, r.Method+" "+r.URL.Path)
		w.f.mu.Unlock()
	}
	return w.next.RoundTrip(r)
}

type fixture struct {
	*testing.T
	api     *controlplane.ControlPlane
	admin   client.Client
	heard   *heard
	changes chan event.GenericEvent

	mu     sync.Mutex
	writes []string
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) eventually(what string, check func() error) {
	f.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

// say has the hub say something else.
func (f *fixture) say(now spoke.Status) {
	f.heard.mu.Lock()
	f.heard.now = now
	f.heard.mu.Unlock()
	f.changes <- event.GenericEvent{Object: &corev1.Service{}}
}

// passes waits until the reconciler has gone through everything n times more.
func (f *fixture) passes(n int) {
	f.Helper()
	for range n {
		f.heard.mu.Lock()
		before := f.heard.asked
		f.heard.mu.Unlock()
		f.changes <- event.GenericEvent{Object: &corev1.Service{}}
		f.eventually("a pass of the reconciler", func() error {
			f.heard.mu.Lock()
			defer f.heard.mu.Unlock()
			if f.heard.asked == before {
				return errors.New("none has begun")
			}
			return nil
		})
	}
}

func (f *fixture) wrote() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.writes
	f.writes = nil
	return out
}

func start(t *testing.T) *fixture {
	ctrl.SetLogger(logr.Discard())
	f := &fixture{T: t, api: controlplane.ForTest(t), heard: &heard{now: said()}, changes: make(chan event.GenericEvent)}
	own, err := filepath.Glob("../../../deploy/crds/*.yaml")
	f.must(err)
	f.must(f.api.ApplyFiles(t.Context(), own...))
	scheme, err := controllers.Scheme()
	f.must(err)
	f.must(errors.Join(mcsv1alpha1.Install(scheme), mcsv1beta1.Install(scheme)))
	f.admin, err = client.New(f.api.RESTConfig(), client.Options{Scheme: scheme})
	f.must(err)
	f.must(f.admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}))
	plain, err := controllers.Scheme() // that of the spoke
	f.must(err)
	cfg := f.api.RESTConfig()
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return writes{next, f} })
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: plain, Logger: logr.FromSlogHandler(slog.DiscardHandler), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	f.must(err)
	r := &serviceexport.Reconciler{Client: mgr.GetClient(), Spoke: f.heard, Changes: f.changes, Recheck: 50 * time.Millisecond}
	f.must(r.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}

// conditions waits for the conditions Valid, Ready and Conflict of a ServiceExport.
func (f *fixture) conditions(name string, want ...string) {
	f.Helper()
	f.eventually("conditions of "+name, func() error {
		var x mcsv1alpha1.ServiceExport // served in all that the test installs
		if err := f.admin.Get(f.Context(), client.ObjectKey{Namespace: "shop", Name: name}, &x); err != nil {
			return err
		}
		var got []string
		for _, kind := range []string{"Valid", "Ready", "Conflict"} {
			if c := meta.FindStatusCondition(x.Status.Conditions, kind); c != nil {
				got = append(got, string(c.Status)+" "+c.Reason)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

func exported(name string) *mcsv1alpha1.ServiceExport {
	return &mcsv1alpha1.ServiceExport{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
}

// TestReconciler goes from a cluster without the CRD over its old version to the new one, and back to none.
func TestReconciler(t *testing.T) {
	f := start(t)
	f.changes <- event.GenericEvent{Object: &corev1.Service{}} // without the CRD there is nothing to do, and it is done

	f.must(f.api.ApplyYAML(t.Context(), f.crd("v1alpha1")))
	f.must(f.admin.Create(t.Context(), exported("web")))
	f.conditions("web", "False NoService", "False Failed", "False NoConflicts")
	f.must(f.admin.Create(t.Context(), service()))
	f.conditions("web", "True Valid", "False Pending", "False NoConflicts")
	f.must(f.admin.Create(t.Context(), &v1alpha1.TailscaleGateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ts"},
		Spec: v1alpha1.TailscaleGatewaySpec{GatewayRef: v1alpha1.GatewayReference{Name: "main"}, Tailnets: []v1alpha1.TailnetConfig{{
			Name: "prod", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "prod-tailnet"},
		}}},
	}))
	f.say(said(vip, notice("conflict/Service/shop/web", "PortConflict", "c2 (8080/TCP)")))
	f.conditions("web", "True Valid", "True Exported", "True PortConflict")

	for f.passes(1); len(f.wrote()) > 0; f.passes(1) { // until the cache has the last write
	}
	f.passes(5)
	if wrote := f.wrote(); len(wrote) != 0 {
		t.Errorf("nothing has changed, and this was written: %v", wrote)
	}

	f.must(f.api.ApplyYAML(t.Context(), f.crd("v1alpha1", "v1beta1")))
	f.must(f.admin.Create(t.Context(), exported("db")))
	db := service(externalName)
	db.Name = "db"
	f.must(f.admin.Create(t.Context(), db))
	f.conditions("db", "False InvalidServiceType", "False Failed", "False NoConflicts")
	f.say(said())
	f.conditions("web", "True Valid", "False Pending", "False NoConflicts")
	for _, w := range f.wrote() {
		if !strings.HasPrefix(w, "PATCH /apis/multicluster.x-k8s.io/") || !strings.HasSuffix(w, "/status") {
			t.Errorf("%s: only the status is the spoke's to write", w)
		}
	}

	f.testWithoutKind()
}

// testWithoutKind takes the CRD away and brings it back: nothing breaks, and new objects are seen.
func (f *fixture) testWithoutKind() {
	def := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "serviceexports.multicluster.x-k8s.io"}}
	scheme := f.admin.Scheme()
	f.must(apiextensionsv1.AddToScheme(scheme))
	f.must(f.admin.Delete(f.Context(), def))
	f.eventually("the CRD is gone", func() error {
		if err := f.admin.Get(f.Context(), client.ObjectKeyFromObject(def), def); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	f.must(f.api.ApplyYAML(f.Context(), f.crd("v1alpha1", "v1beta1")))
	f.eventually("a ServiceExport can be created again", func() error { return client.IgnoreAlreadyExists(f.admin.Create(f.Context(), exported("web"))) })
	f.conditions("web", "True Valid", "False Pending", "False NoConflicts")
}

// crd is the CRD of ServiceExport with the versions that are to be served; the first one is stored.
func (f *fixture) crd(served ...string) []byte {
	f.Helper()
	var def apiextensionsv1.CustomResourceDefinition
	f.must(yaml.Unmarshal(crd.ServiceExportCRD, &def))
	for i := range def.Spec.Versions {
		v := &def.Spec.Versions[i]
		v.Storage, v.Served = v.Name == served[0], false
		for _, name := range served {
			v.Served = v.Served || v.Name == name
		}
	}
	out, err := yaml.Marshal(def)
	f.must(err)
	return out
}
