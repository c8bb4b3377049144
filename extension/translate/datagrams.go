package translate

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	udpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// slots is how finely datagrams are shared out: by the last two digits of the client's port.
const slots = 100

// datagrams returns the configuration of a listener filter as it leads to TailscaleEndpoints, or nil where it does not.
func (c *carrier) datagrams(config *anypb.Any) (*anypb.Any, error) {
	p := new(udpproxyv3.UdpProxyConfig)
	if !config.MessageIs(p) {
		return nil, nil
	}
	if err := config.UnmarshalTo(p); err != nil {
		return nil, fmt.Errorf("read udp_proxy: %w", err)
	}
	route := new(udpproxyv3.Route)
	action := p.GetMatcher().GetOnNoMatch().GetAction().GetTypedConfig()
	if !action.MessageIs(route) {
		return nil, nil
	}
	if err := action.UnmarshalTo(route); err != nil {
		return nil, fmt.Errorf("read route of udp_proxy: %w", err)
	}
	shares := c.shares(route.GetCluster())
	if len(shares) == 0 {
		return nil, nil
	}
	if err := split(p.GetMatcher(), shares); err != nil {
		return nil, err
	}
	if err := p.ValidateAll(); err != nil {
		return nil, fmt.Errorf("write udp_proxy: %w", err)
	}
	return pack(p), nil
}

// split has a matcher share datagrams out. Envoy knows no weights for them, but can look at the port of the client, which
// is as good as random for most clients; and all that a client sends from one port goes to one backend, as it must.
//
// The matcher is written as JSON: its types are of a package that only Envoy's own types need to know.
func split(matcher proto.Message, shares []share) error {
	last := len(shares) - 1
	m := object{"onNoMatch": leadTo(shares[last].cluster)}
	total, before := uint64(0), uint64(0)
	for _, s := range shares {
		total += uint64(s.weight)
	}
	var list []object
	from := 0
	for _, s := range shares[:last] {
		before += uint64(s.weight)
		to := int((before*slots + total/2) / total)
		if to > from {
			list = append(list, object{"predicate": endsIn(from, to), "onMatch": leadTo(s.cluster)})
		}
		from = to
	}
	if len(list) > 0 {
		m["matcherList"] = object{"matchers": list}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write matcher: %w", err)
	}
	if err := protojson.Unmarshal(text, matcher); err != nil {
		return fmt.Errorf("write matcher: %w", err)
	}
	return nil
}

// object is one of JSON.
type object = map[string]any

func leadTo(cluster string) object {
	return object{"action": object{"name": "route", "typedConfig": object{"@type": typeURL((*udpproxyv3.Route)(nil)), "cluster": cluster}}}
}

// endsIn matches the clients' ports whose last two digits are at least from and below to.
func endsIn(from, to int) object {
	return object{"singlePredicate": object{
		"input":      object{"name": "envoy.matching.inputs.source_port", "typedConfig": object{"@type": typeURL((*networkv3.SourcePortInput)(nil))}},
		"valueMatch": object{"safeRegex": object{"googleRe2": object{}, "regex": "[0-9]*(" + endings(from, to) + ")"}},
	}}
}

func typeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// endings is an expression for the two digits of the numbers from one up to another, which is not among them.
func endings(from, to int) string {
	var out []string
	for ten := from / 10; ten*10 < to; ten++ {
		low, high := max(from-ten*10, 0), min(to-ten*10, 10)-1
		out = append(out, strconv.Itoa(ten)+"["+strconv.Itoa(low)+"-"+strconv.Itoa(high)+"]")
	}
	return strings.Join(out, "|")
}
