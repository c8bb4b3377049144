package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/hub/verify"
)

// TestVerifyPrintsAndFails sees a member whose API server is gone.
func TestVerifyPrintsAndFails(t *testing.T) {
	h := federationOfThree()
	picture := func(context.Context) (verify.Picture, error) {
		return verify.Picture{
			Hub:     verify.Hub{Status: h.status},
			Members: []verify.Member{{Context: "kind-cluster3", Err: context.DeadlineExceeded}},
		}, nil
	}
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	cmd.SetContext(t.Context())
	tl := &tool{}
	err := tl.verify(cmd, picture)
	if err == nil || !strings.Contains(err.Error(), "hops failed") {
		t.Errorf("error %v, want the number of hops that failed", err)
	}
	for _, want := range []string{
		"WHERE ", "HOP ", "VERDICT ", "kind-cluster3   API server   failed", "context deadline exceeded",
		"What to do, the first thing first:\n1. ", "kind-cluster3, API server: see that the context kind-cluster3",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	tl.format = "json"
	if err := tl.verify(cmd, picture); err == nil || !strings.Contains(out.String(), `"verdict": "failed"`) {
		t.Errorf("as JSON: %v\n%s", err, out.String())
	}
}

// TestVerifyRefusesUnknownContexts names what the kubeconfig does not have.
func TestVerifyRefusesUnknownContexts(t *testing.T) {
	t.Setenv("KUBECONFIG", t.TempDir()+"/config")
	_, _, err := run(t, &hub{}, "verify", "--hub", "http://127.0.0.1:1", "--member", "nowhere")
	if err == nil || !strings.Contains(err.Error(), `context "nowhere"`) || !strings.Contains(err.Error(), "get-contexts") {
		t.Errorf("error %v, want one that names the context", err)
	}
}
