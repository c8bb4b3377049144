package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

func (t *tool) statusCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the hub, its members, and who reaches whom", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			s, err := api.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := t.print(cmd, s, func(w *page) { printStatus(w, s) }); err != nil {
				return err
			}
			if bad := troubles(s); check && len(bad) > 0 {
				return fmt.Errorf("not all is well: %s", strings.Join(bad, "; "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "end with an error if a member is not healthy, its link or API server is lost, or a probe fails")
	return cmd
}

// troubles are what a healthy federation has none of.
func troubles(s operator.Status) []string {
	var out []string
	if s.Rebuilding {
		out = append(out, "the hub has lost its store and learns what there is")
	}
	for _, c := range s.Clusters {
		switch {
		case c.Verdict.Health != federation.Healthy:
			out = append(out, fmt.Sprintf("%s is %s (%s)", c.ID, c.Verdict.Health, c.Verdict.Reason))
		case !c.Link.Up:
			out = append(out, fmt.Sprintf("the link to %s is lost", c.ID))
		case !c.API.Up:
			out = append(out, fmt.Sprintf("the API server of %s is not reached", c.ID))
		}
	}
	for _, p := range s.Probes {
		if !p.Reachable {
			out = append(out, fmt.Sprintf("%s does not reach %s", p.Observer, p.Target))
		}
	}
	return out
}

func printStatus(w *page, s operator.Status) {
	fmt.Fprintf(w, "Hub %s, epoch %d; VIPs: %d assigned, %d pending, %d released; tasks for the tailnets: %d\n",
		s.Version, s.Epoch, s.VIPs["assigned"], s.VIPs["pending"], s.VIPs["released"], s.Tasks)
	if s.Rebuilding {
		fmt.Fprintln(w, "The hub has lost its store and learns what there is. It tells its members nothing until it knows.")
	}
	fmt.Fprintln(w)
	var rows [][]any
	for _, c := range s.Clusters {
		place := strings.Trim(c.Region+"/"+c.Zone, "/")
		rows = append(rows, []any{
			string(c.ID), place, health(c.Verdict), string(c.Verdict.Reason), way(s.Now, c.Link), way(s.Now, c.API), fmt.Sprint(c.Exports),
			behind(c), c.Versions.Spoke, c.Versions.EnvoyGateway, string(c.Mode),
			since(s.Now, c.Verdict.Since), c.Versions.Kubernetes, fmt.Sprintf("%d/%d", c.Applied.Epoch, c.Applied.Version), strings.Join(c.Ingress, ","),
		})
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "No cluster has joined yet. See: tailgate join --help")
		return
	}
	w.columns([]string{"CLUSTER", "PLACE", "HEALTH", "REASON", "LINK", "API", "EXPORTS", "STATE", "SPOKE", "ENVOY-GATEWAY", "MODE"},
		[]string{"SINCE", "KUBERNETES", "APPLIED", "INGRESS"}, rows)
	if len(s.Probes) > 0 {
		fmt.Fprintln(w, "\nWho reaches whom, and how quickly (rows probe columns):")
		printMatrix(w, s)
	}
}

// way says whether a way to a member works, and since when not.
func way(now time.Time, s operator.Signal) cell {
	switch {
	case s.Up:
		return cell{"up", fine}
	case s.Since.IsZero():
		return cell{"never", bad}
	default:
		return cell{"down " + age(now, s.Since), bad}
	}
}

// behind says whether a member has what the hub has for it.
func behind(c operator.Cluster) cell {
	switch {
	case c.Applied == c.Newest:
		return cell{"current", plain}
	case c.Applied.Epoch != c.Newest.Epoch:
		return cell{"other epoch", warn}
	default:
		return cell{fmt.Sprintf("%d behind", c.Newest.Version-min(c.Newest.Version, c.Applied.Version)), warn}
	}
}

func printMatrix(w *page, s operator.Status) {
	head := []string{"FROM"}
	of := map[[2]federation.ClusterID]operator.Probe{}
	for _, p := range s.Probes {
		of[[2]federation.ClusterID{p.Observer, p.Target}] = p
	}
	for _, c := range s.Clusters {
		head = append(head, string(c.ID))
	}
	var rows [][]any
	var failing []operator.Probe
	for _, from := range s.Clusters {
		row := []any{string(from.ID)}
		for _, to := range s.Clusters {
			p, probes := of[[2]federation.ClusterID{from.ID, to.ID}]
			switch {
			case from.ID == to.ID:
				row = append(row, ".")
			case !probes:
				row = append(row, "")
			case p.Reachable:
				row = append(row, p.RTT.Round(100*time.Microsecond).String())
			default:
				row = append(row, cell{"FAILS", bad})
				failing = append(failing, p)
			}
		}
		rows = append(rows, row)
	}
	w.columns(head, nil, rows)
	for _, p := range failing {
		fmt.Fprintf(w, "%s does not reach %s, %s ago: %s\n", p.Observer, p.Target, age(s.Now, p.At), p.Error)
	}
}

func (t *tool) vipsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "vips", Short: "List the VIPs of the registry", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			all, err := api.VIPs(cmd.Context())
			if err != nil {
				return err
			}
			return t.print(cmd, all, func(w *page) { printVIPs(w, t.now(), all) })
		},
	}
}

func printVIPs(w *page, now time.Time, all []operator.VIP) {
	if len(all) == 0 {
		fmt.Fprintln(w, "No VIPs yet: a TailscaleGateway in a member asks for them.")
		return
	}
	var rows [][]any
	for _, v := range all {
		var advertisers []string
		for _, c := range v.Advertisers {
			advertisers = append(advertisers, string(c))
		}
		state := cell{v.State, warn}
		if v.State == "assigned" {
			state.tone = fine
		}
		rows = append(rows, []any{
			v.ServiceName, addresses(v.Addresses), ports(v.Ports), short(v.Service), cmp.Or(string(v.Cluster), "(federated)"), v.TailnetRef, state,
			sixes(v.Addresses), strings.Join(advertisers, ","), since(now, v.ReleasedAt), v.Name,
		})
	}
	w.columns([]string{"VIP", "ADDRESS", "PORTS", "SERVICE", "CLUSTER", "TAILNET", "STATE"}, []string{"IPV6", "ADVERTISERS", "RELEASED", "NAME"}, rows)
}

func (t *tool) servicesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "services", Short: "List the services and who exports them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			all, err := api.Services(cmd.Context())
			if err != nil {
				return err
			}
			return t.print(cmd, all, func(w *page) { printServices(w, t.now(), all) })
		},
	}
}

func printServices(w *page, now time.Time, all []operator.Service) {
	if len(all) == 0 {
		fmt.Fprintln(w, "No cluster exports anything yet.")
		return
	}
	var rows [][]any
	for _, s := range all {
		for i, x := range s.Exports {
			name := short(s.ID)
			if i > 0 {
				name = " "
			}
			ready := cell{fmt.Sprintf("%d/%d", x.Ready, x.Desired), plain}
			if x.Ready < x.Desired {
				ready.tone = warn
			}
			weight := ""
			if x.Weight > 0 {
				weight = fmt.Sprint(x.Weight)
			}
			rows = append(rows, []any{
				name, string(x.Cluster), ready, health(x.Verdict), string(x.Verdict.Reason), addresses(x.Addresses), ports(x.Ports), string(x.Mode),
				since(now, x.Verdict.Since), sixes(x.Addresses), weight, yes(x.Federated), yes(x.ClusterPinned), s.Policy[x.Cluster],
			})
		}
	}
	w.columns([]string{"SERVICE", "CLUSTER", "READY", "HEALTH", "REASON", "VIP", "PORTS", "MODE"},
		[]string{"SINCE", "IPV6", "WEIGHT", "FEDERATED", "PINNED", "POLICY"}, rows)
}

func (t *tool) endpointsCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use: "endpoints SERVICE --from CLUSTER", Short: "Show where a cluster's requests for a service go, in order", Args: cobra.ExactArgs(1),
		ValidArgsFunction: t.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			id, err := findService(cmd.Context(), api, args[0])
			if err != nil {
				return err
			}
			set, err := api.Endpoints(cmd.Context(), id, federation.ClusterID(from))
			if err != nil {
				return err
			}
			return t.print(cmd, set, func(w *page) { printEndpoints(w, set) })
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`cluster` whose requests they are (required)")
	must(cmd.MarkFlagRequired("from"))
	must(cmd.RegisterFlagCompletionFunc("from", t.completeClusters))
	return cmd
}

func must(err error) {
	if err != nil {
		panic(err) // the flag is defined beside the call
	}
}

func printEndpoints(w *page, set operator.EndpointSet) {
	switch {
	case set.Unreferenced:
		fmt.Fprintf(w, "%s does not refer to %s, and is told nothing of it.\n", set.Consumer, short(set.Service))
		return
	case len(set.Endpoints) == 0:
		fmt.Fprintf(w, "%s has no endpoint of %s.\n", set.Consumer, short(set.Service))
		return
	}
	var total = map[uint32]uint64{}
	for _, e := range set.Endpoints {
		total[e.Priority] += uint64(e.Weight)
	}
	var rows [][]any
	for _, e := range set.Endpoints {
		reason := e.Reason
		if e.Stale {
			reason += " (stale)"
		}
		rows = append(rows, []any{
			fmt.Sprint(e.Priority), string(e.Cluster), e.Address.String(), ports(e.Ports), fmt.Sprintf("%d%%", 100*uint64(e.Weight)/max(1, total[e.Priority])),
			toned(e.Health, e.Health.String()), reason, fmt.Sprint(e.Weight), set.Policy,
		})
	}
	w.columns([]string{"PRIORITY", "CLUSTER", "VIP", "PORTS", "WEIGHT", "HEALTH", "REASON"}, []string{"LOAD-BALANCING-WEIGHT", "POLICY"}, rows)
}

func (t *tool) explainCommand() *cobra.Command {
	var from string
	var last int
	cmd := &cobra.Command{
		Use: "explain SERVICE", Short: "Say who serves a service, why, and what was decided of it last", Args: cobra.ExactArgs(1),
		ValidArgsFunction: t.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			e, err := explain(cmd, api, args[0], federation.ClusterID(from), last)
			if err != nil {
				return err
			}
			return t.print(cmd, e, func(w *page) { printExplanation(w, t.now(), e) })
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "only as this `cluster` sees it (default: as all members do)")
	cmd.Flags().IntVar(&last, "last", 5, "how many decisions to show")
	must(cmd.RegisterFlagCompletionFunc("from", t.completeClusters))
	return cmd
}

// explanation is all that is known of a service.
type explanation struct {
	Service   operator.Service       `json:"service"`
	Endpoints []operator.EndpointSet `json:"endpoints"`
	Decisions []operator.Record      `json:"decisions"`
}

func explain(cmd *cobra.Command, api operator.API, name string, from federation.ClusterID, last int) (explanation, error) {
	ctx := cmd.Context()
	id, err := findService(ctx, api, name)
	if err != nil {
		return explanation{}, err
	}
	var e explanation
	if e.Service, err = api.Service(ctx, id); err != nil {
		return e, err
	}
	consumers := []federation.ClusterID{from}
	if from == "" {
		s, err := api.Status(ctx)
		if err != nil {
			return e, err
		}
		consumers = consumers[:0]
		for _, c := range s.Clusters {
			consumers = append(consumers, c.ID)
		}
	}
	for _, c := range consumers {
		set, err := api.Endpoints(ctx, id, c)
		if err != nil {
			return e, err
		}
		e.Endpoints = append(e.Endpoints, set)
	}
	if last > 0 {
		e.Decisions, err = operator.Newest(ctx, api, operator.JournalQuery{Service: id}, last)
	}
	return e, err
}

func printExplanation(w *page, now time.Time, e explanation) {
	fmt.Fprintf(w, "%s is exported by:\n", short(e.Service.ID))
	for _, x := range e.Service.Exports {
		fmt.Fprintf(w, "  %s: %s, %s; %d of %d endpoints ready\n", x.Cluster, w.paint(health(x.Verdict)), x.Verdict.Reason, x.Ready, x.Desired)
	}
	for _, set := range e.Endpoints {
		fmt.Fprintf(w, "\nFrom %s%s:\n", set.Consumer, by(set.Policy))
		fmt.Fprintf(w, "  %s\n", choice(set))
	}
	if len(e.Decisions) > 0 {
		fmt.Fprintln(w, "\nLast decisions:")
		printRecords(w, now, e.Decisions)
	}
}

func by(policy string) string {
	if policy == "" {
		return " (no FailoverPolicy: the nearest first)"
	}
	return fmt.Sprintf(" (FailoverPolicy %s)", policy)
}

// choice says in a sentence where a consumer's requests go, and why not elsewhere.
func choice(set operator.EndpointSet) string {
	if set.Unreferenced {
		return "it does not refer to the service"
	}
	var first, next, out []string
	var best uint32
	for _, e := range set.Endpoints {
		switch {
		case e.Health != federation.Healthy:
			out = append(out, fmt.Sprintf("%s is %s (%s)", e.Cluster, e.Health, e.Reason))
		case len(first) == 0 || e.Priority == best:
			first, best = append(first, string(e.Cluster)), e.Priority
		default:
			next = append(next, string(e.Cluster))
		}
	}
	says := "nobody serves it"
	if len(first) > 0 {
		says = "goes to " + strings.Join(first, " and ")
	}
	if len(next) > 0 {
		says += ", then " + strings.Join(next, ", then ")
	}
	slices.Sort(out)
	return strings.Join(append([]string{says}, out...), "; ")
}
