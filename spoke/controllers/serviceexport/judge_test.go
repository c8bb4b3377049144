package serviceexport_test

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/serviceexport"
)

var web = federation.Service("shop", "web")

// said is what the hub has said when it is there.
func said(edit ...func(*spoke.Status)) spoke.Status {
	now := spoke.Status{Version: 1, Link: spoke.LinkStatus{Up: true}}
	for _, e := range edit {
		e(&now)
	}
	return now
}

func vip(now *spoke.Status) {
	now.VIPs = append(now.VIPs, federation.VIP{
		Owner: federation.ExportKey{Cluster: "c1", Service: web}, ServiceName: "local-prod-web-c1",
		Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1"), netip.MustParseAddr("fd7a::1")},
	})
}

func notice(subject, reason, message string) func(*spoke.Status) {
	return func(now *spoke.Status) {
		now.Notices = append(now.Notices, federation.Notice{Subject: subject, Reason: reason, Message: message})
	}
}

func linkDown(now *spoke.Status) { now.Link = spoke.LinkStatus{Message: "no route to the hub"} }
func unheard(now *spoke.Status)  { now.Version = 0 }

func service(edit ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, e := range edit {
		e(svc)
	}
	return svc
}

func headless(svc *corev1.Service)     { svc.Spec.ClusterIP = corev1.ClusterIPNone }
func withoutPorts(svc *corev1.Service) { svc.Spec.Ports = nil }
func sctp(svc *corev1.Service)         { svc.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }
func standsForVIP(svc *corev1.Service) {
	svc.Labels = map[string]string{v1alpha1.LabelVIPService: "true"}
}
func externalName(svc *corev1.Service) {
	svc.Spec.Type, svc.Spec.ExternalName, svc.Spec.Ports = corev1.ServiceTypeExternalName, "db.example.com", nil
}

func TestJudge(t *testing.T) {
	const conflict = "conflict/Service/shop/web"
	for _, tc := range []struct {
		name   string
		svc    *corev1.Service
		now    spoke.Status
		alone  bool     // no TailscaleGateway joins the cluster
		want   []string // Valid, Ready and Conflict
		advice string   // stands in a message
	}{
		{"exported", service(), said(vip), false, []string{"True Valid", "True Exported", "False NoConflicts"}, "svc:local-prod-web-c1 at 100.100.0.1, fd7a::1"},
		{"asked-for", service(), said(), false, []string{"True Valid", "False Pending", "False NoConflicts"}, "has not given a VIP yet"},
		{"no-service", nil, said(), false, []string{"False NoService", "False Failed", "False NoConflicts"}, `no Service "web" in namespace "shop": create it`},
		{"external-name", service(externalName), said(), false, []string{"False InvalidServiceType", "False Failed", "False NoConflicts"}, `TailscaleEndpoints with an endpoint whose externalTarget is "db.example.com"`},
		{"headless", service(headless), said(vip), false, []string{"True Valid", "True Exported", "False NoConflicts"}, ""},
		{"headless-without-ports", service(headless, withoutPorts), said(), false, []string{"False NoPorts", "False Failed", "False NoConflicts"}, "add those of its pods"},
		{"sctp-only", service(sctp), said(), false, []string{"False NoPorts", "False Failed", "False NoConflicts"}, "no TCP or UDP port"},
		{"stands-for-a-vip", service(standsForVIP), said(), false, []string{"False InvalidServiceType", "False Failed", "False NoConflicts"}, "not exported again"},
		{"refused", service(), said(notice("export/Service/shop/web", "VIPConflict", "svc:x belongs to somebody else")), false, []string{"True Valid", "False Failed", "False NoConflicts"}, "VIPConflict: svc:x belongs"},
		{"another-is-refused", service(), said(notice("export/Service/shop/api", "VIPConflict", "x")), false, []string{"True Valid", "False Pending", "False NoConflicts"}, ""},
		{"refused-and-still-there", service(), said(vip, notice("export/Service/shop/web", "VIPRefused", "x")), false, []string{"True Valid", "True Exported", "False NoConflicts"}, ""},
		{"tailnet-refused", service(), said(notice("tailnet/prod", "TailnetNotFound", "make one")), false, []string{"True Valid", "False Failed", "False NoConflicts"}, "TailnetNotFound: make one"},
		{"no-tailscale-gateway", service(), said(), true, []string{"True Valid", "False Pending", "False NoConflicts"}, "no TailscaleGateway"},
		{"hub-away", service(), said(linkDown), false, []string{"True Valid", "Unknown Pending", "False NoConflicts"}, "no route to the hub"},
		{"hub-away-and-exported", service(), said(vip, linkDown), false, []string{"True Valid", "True Exported", "False NoConflicts"}, ""},
		{"hub-never-heard", service(), said(unheard), false, []string{"True Valid", "Unknown Pending", "False NoConflicts"}, ""},
		{"conflict", service(), said(vip, notice(conflict, "PortConflict", "other ports in c2 (8080/TCP)")), false, []string{"True Valid", "True Exported", "True PortConflict"}, "c2 (8080/TCP)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := &mcsv1beta1.ServiceExport{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
			x.Status.Conditions = []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue, Reason: "Somebodys"}}
			got := serviceexport.Judge(x, tc.svc, tc.now, !tc.alone)
			messages := ""
			for i, kind := range []string{"Valid", "Ready", "Conflict"} {
				c := meta.FindStatusCondition(got, kind)
				if c == nil || string(c.Status)+" "+c.Reason != tc.want[i] {
					t.Fatalf("condition %s is %+v, want %s", kind, c, tc.want[i])
				}
				messages += c.Message + "\n"
			}
			if !strings.Contains(messages, tc.advice) {
				t.Errorf("messages\n%swant %q in them", messages, tc.advice)
			}
			if meta.FindStatusCondition(got, "Other") == nil {
				t.Error("a condition of somebody else is gone")
			}
			x.Status.Conditions = got
			if again := serviceexport.Judge(x, tc.svc, tc.now, !tc.alone); len(again) != len(got) || again[1] != got[1] {
				t.Errorf("judged again: %+v, was %+v", again, got)
			}
		})
	}
}
