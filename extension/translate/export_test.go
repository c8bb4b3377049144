package translate

import (
	udpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Within is Translate with another limit.
var Within = within

// Ending is where the datagrams of a client go, by the last two digits of its port: the index of the share.
func Ending(weights []uint32, match func(regex, port string) bool, port string) string {
	shares := make([]share, 0, len(weights))
	for i, w := range weights {
		shares = append(shares, share{portText(uint16(i)), w})
	}
	p := new(udpproxyv3.UdpProxyConfig)
	field := p.ProtoReflect().Descriptor().Fields().ByName("matcher")
	matcher := p.ProtoReflect().NewField(field)
	p.ProtoReflect().Set(field, matcher)
	if err := split(matcher.Message().Interface(), shares); err != nil {
		return err.Error()
	}
	for _, x := range p.GetMatcher().GetMatcherList().GetMatchers() {
		if match(x.GetPredicate().GetSinglePredicate().GetValueMatch().GetSafeRegex().GetRegex(), port) {
			return clusterOf(x.GetOnMatch().GetAction())
		}
	}
	return clusterOf(p.GetMatcher().GetOnNoMatch().GetAction())
}

func clusterOf(action interface{ GetTypedConfig() *anypb.Any }) string {
	r := new(udpproxyv3.Route)
	if err := action.GetTypedConfig().UnmarshalTo(r); err != nil {
		return err.Error()
	}
	return r.GetCluster()
}
