package envoygateway_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

// fault is something that happens to the extension server, and how it ends.
type fault struct {
	name string
	// begin does it; the function that it returns ends it, given the snapshot that counts from then on.
	begin func(p *hooksProcess) (end func(extension.Snapshot))
	// blind is set where Envoy Gateway can do nothing while the fault lasts: it asks without a deadline. Else the user's own
	// changes come through.
	blind bool
}

var faults = []fault{
	{"killed", func(p *hooksProcess) func(extension.Snapshot) {
		p.kill()
		return p.restart
	}, true},
	{"hung-and-killed", func(p *hooksProcess) func(extension.Snapshot) {
		p.signal(unix.SIGSTOP)
		return func(s extension.Snapshot) {
			p.kill()
			p.restart(s)
		}
	}, true},
	{"hung-for-a-while", func(p *hooksProcess) func(extension.Snapshot) {
		p.signal(unix.SIGSTOP)
		return func(s extension.Snapshot) {
			p.write(s)
			p.signal(unix.SIGHUP)
			p.signal(unix.SIGCONT)
		}
	}, true},
	{"takes-connections-and-says-nothing", func(p *hooksProcess) func(extension.Snapshot) {
		p.kill()
		end := p.world.silence()
		return func(s extension.Snapshot) {
			end()
			p.restart(s)
		}
	}, true},
	{"restarted", func(p *hooksProcess) func(extension.Snapshot) {
		p.stop()
		return p.restart
	}, true},
	{"panics", func(p *hooksProcess) func(extension.Snapshot) {
		p.set(faultSnapshot("steady", poison), 100)
		return func(s extension.Snapshot) { p.set(s, 101) }
	}, false},
	{"invalid-object", func(p *hooksProcess) func(extension.Snapshot) {
		bad := faultSnapshot("steady", "Not A Label", "steady-")
		bad.Gateways[0].Tailnets[0].Ingress.HostPattern = "{service}.{nonsense}"
		bad.Services[1].Clusters = []federation.ClusterID{"", "Not/A/Cluster"}
		p.set(bad, 102)
		return func(s extension.Snapshot) { p.set(s, 103) }
	}, false},
}

func (p *hooksProcess) restart(s extension.Snapshot) {
	p.write(s)
	p.start()
}

func faultSnapshot(services ...string) extension.Snapshot {
	s := extension.Snapshot{Cluster: "c1", Gateways: []extension.Gateway{joinedGateway("eg", 80, "/api/{service}/")}}
	s.Gateways[0].Policy = "p"
	for _, name := range services {
		s.Services = append(s.Services, extension.Service{ID: federation.Service("default", name), Port: 80, Clusters: []federation.ClusterID{"c1"}})
	}
	return s
}

// TestFaults has things happen to the extension server below the real Envoy Gateway while a user changes routes, and looks at
// what an Envoy has: what it had stays, nothing that was asked for is lost, and all is there soon after the fault has ended.
// The first fault is that there is no extension server when Envoy Gateway starts.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	p := w.newHooksProcess(faultSnapshot("steady"))
	w.startGateway(w.hookSettings())
	const config = "default/eg/http"
	w.apply(gatewayObjects + service("svc", "10.0.0.1") + webRoute("steady", "eg", "", below("/steady")))
	w.accepted("steady")
	e := w.connect("default/eg", config)
	p.start()
	steady := []lead{{"any.example.com/steady/x", "", ofUser("steady")}, {"any.example.com/cross-cluster/steady/x", "", "tsgw/federated/default/steady"}}
	e.within("absent-at-start", config, steady)

	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			kept := e.keep(config, steady)
			end := f.begin(p)
			during, after := "during-"+f.name, "after-"+f.name
			w.apply(webRoute(during, "eg", "", below("/"+during)))
			w.accepted(during)
			own := lead{"any.example.com/" + during, "", ofUser(during)}
			if !f.blind {
				e.check("the user's own route while it lasts", config, append([]lead{own}, steady...))
			} else if got := e.goes(config, own); got == own.want {
				t.Errorf("Envoy Gateway did not need the extension server to translate: %s goes to %s", own.request, got)
			}
			// The state has moved on when the fault ends: there is one service more.
			end(faultSnapshot("steady", after))
			w.retranslate(1000 + i)
			e.within(f.name, config, append([]lead{own, {"any.example.com/cross-cluster/" + after + "/x", "", "tsgw/federated/default/" + after}}, steady...))
			if lost := kept(); lost != "" {
				t.Errorf("an Envoy lost what it had: %s", lost)
			}
		})
	}
}

// accepted waits until Envoy Gateway has seen an HTTPRoute.
func (w *world) accepted(name string) {
	w.Helper()
	w.eventually("Accepted of "+name, func() string {
		var o gatewayv1.HTTPRoute
		if err := w.kube.Get(w.Context(), client.ObjectKey{Namespace: "default", Name: name}, &o); err != nil {
			return err.Error()
		}
		if len(o.Status.Parents) == 1 {
			if c := meta.FindStatusCondition(o.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionAccepted)); c != nil && c.Status == metav1.ConditionTrue {
				return ""
			}
		}
		return "not yet"
	})
}

// within is check, and says how long it took: longer than allowed is an error.
func (e *envoy) within(what, config string, leads []lead) {
	e.world.Helper()
	start := time.Now()
	e.check("after "+what, config, leads)
	took := time.Since(start).Round(time.Millisecond)
	e.world.Logf("%s: all is there %v after its end", what, took)
	if took > recovery {
		e.world.Errorf("%s: all was there only %v after its end", what, took)
	}
}

// keep looks at each response from now on, and returns a function that says which requests did not always go where they must.
func (e *envoy) keep(config string, leads []lead) func() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	lost := ""
	e.look = func() {
		for _, l := range leads {
			if got := e.goesLocked(config, l); got != l.want {
				lost = fmt.Sprintf("%s went to %s, not %s", l.request, got, l.want)
			}
		}
	}
	return func() string {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.look = nil
		return lost
	}
}
