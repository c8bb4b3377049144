package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	testtailnet "github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

const (
	tailnetContainer = "tailgate-tailnet"
	tailnetImage     = registry + "tailnet:dev"
	tailnetPort      = "8080"
)

// The hub's OAuth client in the test tailnet.
const (
	oauthID     = "kind"
	oauthSecret = "kind-oauth-secret"
)

// tailnetFiles are the tailnet's policy file and OAuth clients.
var tailnetFiles = map[string]string{
	"policy.hujson": `{
	"tagOwners": {
		"tag:tailgate-hub":      [],
		"tag:tailgate-spoke":    ["tag:tailgate-hub"],
		"tag:tailgate-proxy":    ["tag:tailgate-hub"],
		"tag:tailgate-endpoint": [],
	},
	"autoApprovers": {"services": {"tag:tailgate-proxy": ["tag:tailgate-proxy"]}},
}`,
	"oauth.json": `[{"ID": "` + oauthID + `", "Secret": "` + oauthSecret + `", "Tags": ["tag:tailgate-hub"]}]`,
}

// tailnet is the test tailnet in its container.
type tailnet struct{ url string }

// startTailnet starts a new tailnet, in place of an older one.
func (s *Suite) startTailnet(ctx context.Context) (*tailnet, error) {
	if err := s.run(ctx, "docker", "rm", "--force", "--volumes", tailnetContainer); err != nil {
		return nil, err
	}
	err := s.run(ctx, "docker", "run", "--detach", "--name", tailnetContainer, "--network", "kind", "--user", "0", tailnetImage,
		"-addr", ":"+tailnetPort, "-interface", "eth0", "-policy-file", "/usr/local/bin/policy.hujson", "-oauth-clients-file", "/usr/local/bin/oauth.json")
	if err != nil {
		return nil, err
	}
	return s.findTailnet(ctx)
}

// findTailnet returns the tailnet that was started, once it is ready.
func (s *Suite) findTailnet(ctx context.Context) (*tailnet, error) {
	for {
		out, err := s.output(ctx, "docker", "logs", tailnetContainer)
		if err != nil {
			return nil, err
		}
		var ready struct{ URL string }
		if line, _, ok := strings.Cut(out, "\n"); ok && json.Unmarshal([]byte(line), &ready) == nil {
			return &tailnet{ready.URL}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the tailnet does not start: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mintKey makes an auth key as an administrator does in the admin console.
func (t *tailnet) mintKey(ctx context.Context, tag string) (string, error) {
	body, err := json.Marshal(testtailnet.KeyRequest{Tags: []string{tag}})
	if err != nil {
		return "", err
	}
	var key testtailnet.KeyResponse
	err = t.call(ctx, http.MethodPost, "/console/keys", body, &key)
	return key.Key, err
}

func (t *tailnet) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, t.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the tailnet's console: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the tailnet's console: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the tailnet's console: %s: %s", resp.Status, data)
	}
	return json.Unmarshal(data, into)
}
