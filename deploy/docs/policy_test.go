package docs_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tailscale/hujson"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/spoke/proxy"
)

// policyFile is what is looked at of a tailnet's policy file.
type policyFile struct {
	Groups        map[string][]string `json:"groups"`
	TagOwners     map[string][]string `json:"tagOwners"`
	Grants        []grant             `json:"grants"`
	AutoApprovers struct {
		Services map[string][]string `json:"services"`
	} `json:"autoApprovers"`
}

type grant struct {
	Src []string                    `json:"src"`
	Dst []string                    `json:"dst"`
	IP  []string                    `json:"ip"`
	App map[string][]map[string]any `json:"app"`
}

// policy is the policy file of deploy/README.md.
func policy(t *testing.T) policyFile {
	t.Helper()
	var p policyFile
	found := 0
	for _, b := range read(t, "deploy/README.md").blocks {
		if b.language != "json" {
			continue
		}
		found++
		standard, err := hujson.Standardize([]byte(b.text))
		if err != nil {
			t.Fatalf("the policy file is not HuJSON: %v", err)
		}
		d := json.NewDecoder(strings.NewReader(string(standard)))
		d.DisallowUnknownFields()
		if err := d.Decode(&p); err != nil {
			t.Fatalf("the policy file has something else than is looked at here: %v", err)
		}
	}
	if found != 1 {
		t.Fatalf("deploy/README.md has %d policy files, want 1", found)
	}
	return p
}

// grants reports whether src may reach a port of dst, by a grant that names the port or by one for all.
func (p policyFile) grants(src, dst, port string) bool {
	for _, g := range p.Grants {
		if slices.Contains(g.Src, src) && slices.Contains(g.Dst, dst) && (slices.Contains(g.IP, port) || slices.Contains(g.IP, "*")) {
			return true
		}
	}
	return false
}

// defaultsOf finds the tags in the strings of the commands: those are the defaults of flags, and what is compared with.
func defaultsOf(t *testing.T) []string {
	t.Helper()
	tag := regexp.MustCompile(`^tag:[a-z][a-z0-9-]*$`)
	tags := map[string]bool{string(v1alpha1.TagEndpoint): true}
	for _, m := range messages(t) {
		if tag.MatchString(m) && strings.HasPrefix(m, "tag:tailgate-") {
			tags[m] = true
		}
	}
	return slices.Sorted(maps.Keys(tags))
}

func TestPolicyFileHasAllTags(t *testing.T) {
	p, tags := policy(t), defaultsOf(t)
	for _, must := range []string{"tag:tailgate-hub", "tag:tailgate-spoke", "tag:tailgate-proxy", "tag:tailgate-endpoint"} {
		if !slices.Contains(tags, must) {
			t.Errorf("the code does not know %s any more", must)
		}
	}
	for _, tag := range tags {
		if len(p.TagOwners[tag]) == 0 {
			t.Errorf("nobody owns %s", tag)
		}
	}
	known := func(name string) {
		switch {
		case strings.HasPrefix(name, "tag:") && p.TagOwners[name] == nil:
			t.Errorf("%s is used and not defined", name)
		case strings.HasPrefix(name, "group:") && p.Groups[name] == nil:
			t.Errorf("%s is used and not defined", name)
		}
	}
	for _, owners := range p.TagOwners {
		for _, o := range owners {
			known(o)
		}
	}
	for _, g := range p.Grants {
		if len(g.Src) == 0 || len(g.Dst) == 0 || len(g.IP) == 0 {
			t.Errorf("a grant gives nothing: %+v", g)
		}
		for _, name := range slices.Concat(g.Src, g.Dst) {
			known(name)
		}
		for _, ip := range g.IP {
			if !regexp.MustCompile(`^(\*|tcp:[0-9]+|udp:[0-9]+)$`).MatchString(ip) {
				t.Errorf("%q is no protocol and port", ip)
			}
		}
	}
	for _, owner := range []string{"tag:tailgate-spoke", "tag:tailgate-proxy"} {
		if !slices.Contains(p.TagOwners[owner], "tag:tailgate-hub") {
			t.Errorf("the hub cannot make keys with %s", owner)
		}
	}
	if !slices.Contains(p.AutoApprovers.Services["tag:tailgate-proxy"], "tag:tailgate-proxy") {
		t.Error("proxies are not approved as hosts of VIPs")
	}
}

func TestPolicyFileGrantsThePorts(t *testing.T) {
	p := policy(t)
	number := func(dir, flag string) string {
		t.Helper()
		for _, f := range parse(t, dir)[dir] {
			if n := defaultOf(f.File, flag); n != "" {
				return n
			}
		}
		t.Fatalf("%s has no --%s", dir, flag)
		return ""
	}
	web := "tcp:" + number("hub/cmd/hub", "web-port")
	for _, want := range []struct{ src, dst, port string }{
		{"tag:tailgate-spoke", "tag:tailgate-hub", "tcp:" + number("hub/cmd/hub", "link-port")},
		{"tag:tailgate-hub", "tag:tailgate-spoke", "tcp:" + number("spoke/cmd/spoke", "api-port")},
		{"tag:tailgate-proxy", "tag:tailgate-proxy", "tcp:" + decimal(proxy.ProbePort)},
		{"tag:tailgate-spoke", "tag:tailgate-proxy", "tcp:" + decimal(proxy.ProbePort)},
		{"tag:tailgate-proxy", "tag:tailgate-endpoint", "*"},
		{"group:tailgate-viewers", "tag:tailgate-hub", web},
		{"group:tailgate-admins", "tag:tailgate-hub", web},
	} {
		if !p.grants(want.src, want.dst, want.port) {
			t.Errorf("%s may not reach %s of %s", want.src, want.port, want.dst)
		}
	}
	if p.grants("tag:tailgate-endpoint", "tag:tailgate-hub", web) || p.grants("tag:tailgate-proxy", "tag:tailgate-hub", "tcp:7443") {
		t.Error("somebody may reach the hub who has no business there")
	}
}

func TestPolicyFileGivesRoles(t *testing.T) {
	roles := map[string]string{}
	for _, g := range policy(t).Grants {
		for capability, values := range g.App {
			if capability != string(tailnet.OperatorCapability) {
				t.Errorf("nobody asks for the capability %s", capability)
			}
			for _, v := range values {
				role, _ := v["role"].(string)
				roles[role] = strings.Join(g.Src, ",")
			}
		}
	}
	want := map[string]string{"viewer": "group:tailgate-viewers", "admin": "group:tailgate-admins"}
	if !maps.Equal(want, roles) {
		t.Errorf("roles %v, want %v", roles, want)
	}
}

// TestChartsHaveTheSameDefaults compares the tags and ports of the charts with those of the policy file.
func TestChartsHaveTheSameDefaults(t *testing.T) {
	p := policy(t)
	values, err := filepath.Glob(filepath.Join(root, "deploy", "charts", "*", "values.yaml"))
	if err != nil || len(values) == 0 {
		t.Fatalf("no charts: %v", err)
	}
	for _, name := range values {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range regexp.MustCompile(`tag:tailgate-[a-z]+`).FindAllString(string(data), -1) {
			if p.TagOwners[tag] == nil {
				t.Errorf("%s: nobody owns %s", name, tag)
			}
		}
		for _, m := range regexp.MustCompile(`(?m)^(linkPort|webPort|apiPort): (\d+)$`).FindAllStringSubmatch(string(data), -1) {
			if !slices.ContainsFunc(p.Grants, func(g grant) bool { return slices.Contains(g.IP, "tcp:"+m[2]) }) {
				t.Errorf("%s: nobody may reach %s %s", name, m[1], m[2])
			}
		}
	}
}
