package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

// TestDevice has a device ask itself through its proxy, by its address in the tailnet, and end when it is told to.
func TestDevice(t *testing.T) {
	tn := tailnet.ForTest(t, tailnet.Options{})
	key, err := tn.MintKey(tailnet.KeyOptions{Tags: []string{"tag:other"}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "device", "-control-url", tn.URL(), "-hostname", "laptop")
	cmd.Env = append(cmd.Env, "TS_AUTHKEY="+key)
	var ready struct{ SOCKS string }
	begin(t, cmd, &ready)
	addr := tn.Nodes()[0].Addrs[0].String()
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: ready.SOCKS})}}
	resp, err := client.Get("http://" + addr + "/a/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `{"cluster":"laptop","host":"` + addr + `","path":"/a/page"}`; err != nil || strings.TrimSpace(string(body)) != want {
		t.Errorf("%s, %v; want %s", body, err, want)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
