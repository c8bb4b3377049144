// Package bootstrap reads the configuration and the command line that Envoy Gateway starts Envoy with. Test
// equipment, never part of the product.
package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// Flags are the parts of Envoy's command line that have an effect.
type Flags struct {
	ServiceCluster   string
	ServiceNode      string
	ServiceZone      string
	ConfigYAML       []string // merged into the file, in order
	ConfigPath       string
	LogLevel         string
	AdminAddressPath string        // file that the admin interface's address is written to
	EventsPath       string        // the stand-in's own: file that events are written to as JSON lines
	DrainTime        time.Duration // how long connections of an old configuration may live on
	Mode             string        // serve, or validate
	Version          bool
	Ignored          []string // flags of Envoy's that have no effect here
}

// switches are Envoy's flags without a value.
var switches = []string{
	"--cpuset-threads", "--disable-hot-restart", "--allow-unknown-static-fields", "--reject-unknown-dynamic-fields",
	"--ignore-unknown-dynamic-fields", "--enable-mutex-tracing", "--hot-restart-version", "--log-format-escaped",
	"--enable-core-dump", "--skip-hot-restart-on-no-parent", "--skip-hot-restart-parent-stats", "--enable-fine-grain-logging",
	"--use-dynamic-base-id", "--skip-deprecated-logs",
}

// values are Envoy's flags with a value that has no effect here.
var values = []string{
	"--concurrency", "--component-log-level", "--drain-strategy", "--parent-shutdown-time-s", "--base-id", "--base-id-path",
	"--restart-epoch", "--log-format", "--log-path", "--local-address-ip-version", "--file-flush-interval-msec",
	"--file-flush-min-size-kb", "--disable-extensions", "--socket-path", "--socket-mode", "--stats-tag",
}

// ParseFlags reads a command line without the program's name. A flag that Envoy does not have is an error.
func ParseFlags(args []string) (*Flags, error) {
	f := &Flags{DrainTime: 10 * time.Minute, Mode: "serve", LogLevel: "info"}
	var drain string
	strs := map[string]*string{
		"--service-cluster": &f.ServiceCluster, "--service-node": &f.ServiceNode, "--service-zone": &f.ServiceZone,
		"--config-path": &f.ConfigPath, "-c": &f.ConfigPath, "--log-level": &f.LogLevel, "-l": &f.LogLevel,
		"--admin-address-path": &f.AdminAddressPath, "--standin-events": &f.EventsPath, "--mode": &f.Mode, "--drain-time-s": &drain,
	}
	for i := 0; i < len(args) && args[i] != "--"; i++ { // what follows -- is a mark for process lists
		name, value, inline := strings.Cut(args[i], "=")
		if name == "--version" {
			f.Version = true
			continue
		}
		if slices.Contains(switches, name) {
			f.Ignored = append(f.Ignored, name)
			continue
		}
		if strs[name] == nil && name != "--config-yaml" && !slices.Contains(values, name) {
			return nil, fmt.Errorf("unknown flag %s; Envoy has none of that name", name)
		}
		if !inline {
			if i++; i == len(args) {
				return nil, fmt.Errorf("flag %s needs a value", name)
			}
			value = args[i]
		}
		switch {
		case name == "--config-yaml":
			f.ConfigYAML = append(f.ConfigYAML, value)
		case strs[name] != nil:
			*strs[name] = value
		default:
			f.Ignored = append(f.Ignored, name)
		}
	}
	if drain != "" {
		seconds, err := strconv.ParseUint(drain, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("flag --drain-time-s: %w", err)
		}
		f.DrainTime = time.Duration(seconds) * time.Second
	}
	if f.Mode != "serve" && f.Mode != "validate" {
		return nil, fmt.Errorf("flag --mode: %q is neither serve nor validate", f.Mode)
	}
	return f, nil
}

// Load reads and checks the configuration that the flags name, and puts the node's identity in it.
func Load(f *Flags) (*bootstrapv3.Bootstrap, error) {
	if f.ConfigPath == "" && len(f.ConfigYAML) == 0 {
		return nil, errors.New("one of --config-path and --config-yaml must be given")
	}
	texts := []string{}
	if f.ConfigPath != "" {
		b, err := os.ReadFile(f.ConfigPath)
		if err != nil {
			return nil, fmt.Errorf("read --config-path: %w", err)
		}
		texts = append(texts, string(b))
	}
	b := &bootstrapv3.Bootstrap{}
	for _, text := range append(texts, f.ConfigYAML...) {
		part, err := Parse(text)
		if err != nil {
			return nil, err
		}
		proto.Merge(b, part)
	}
	if err := strict.Check(b); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if b.Node == nil {
		b.Node = &corev3.Node{}
	}
	setIf(&b.Node.Id, f.ServiceNode)
	setIf(&b.Node.Cluster, f.ServiceCluster)
	if f.ServiceZone != "" {
		b.Node.Locality = &corev3.Locality{Zone: f.ServiceZone}
	}
	b.Node.UserAgentName = "tailgate-envoy-standin"
	if b.Node.GetId() == "" || b.Node.GetCluster() == "" {
		return nil, errors.New("the node has no id or no cluster; give --service-node and --service-cluster")
	}
	return b, nil
}

func setIf(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// Parse reads a bootstrap in YAML or JSON. Unknown fields are errors.
func Parse(text string) (*bootstrapv3.Bootstrap, error) {
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("parse bootstrap: %w", err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(j, b); err != nil {
		return nil, fmt.Errorf("parse bootstrap: %w", err)
	}
	return b, nil
}

// AdminAddress returns the address of the admin interface, or nothing if there is none.
func AdminAddress(b *bootstrapv3.Bootstrap) string {
	sa := b.GetAdmin().GetAddress().GetSocketAddress()
	if sa == nil {
		return ""
	}
	return net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue())))
}
