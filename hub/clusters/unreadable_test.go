package clusters_test

import (
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/mcs-api/config/crd"

	"github.com/tailgate-project/tailgate/hub/clusters"
	"github.com/tailgate-project/tailgate/hub/clusters/clusterstest"
)

// testUnreadable: a kind that is served and that the spoke's account may not list costs the hub that kind alone.
func (f fixture) testUnreadable(t *testing.T) {
	if err := f.api.ApplyYAML(t.Context(), crd.ServiceExportCRD); err != nil {
		t.Fatal(err)
	}
	config := f.api.RESTConfig()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return withoutServiceExports{next} })
	r := f.run(t, dial)
	r.provider.Engage(clusters.Member{ID: "unreadable", Addr: clusterstest.ServeAPI(t, config), NodeID: "n1"})
	r.aware.waitEngagements(t, "unreadable", 1)
	if r.provider.Serves("unreadable", clusters.ServiceExports) || r.provider.Serves("unreadable", clusters.OldServiceExports) {
		t.Error("ServiceExports count as served, though they cannot be listed")
	}
	all := f.run(t, dial)
	all.provider.Engage(f.member("readable"))
	all.aware.waitEngagements(t, "readable", 1)
	if !all.provider.Serves("readable", clusters.ServiceExports) || all.provider.Serves("readable", clusters.OldServiceExports) {
		t.Error("want ServiceExports served in their newer version alone")
	}
}

// withoutServiceExports refuses to list them.
type withoutServiceExports struct{ next http.RoundTripper }

func (w withoutServiceExports) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/serviceexports") {
		return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	}
	return w.next.RoundTrip(r)
}
