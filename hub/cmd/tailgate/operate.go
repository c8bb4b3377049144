package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// verbs are the wishes that operators have.
var verbs = []struct {
	name, short string
	mode        failover.Mode
	// cluster is set where a whole cluster may be meant.
	cluster bool
}{
	{"drain", "Move the traffic away from a cluster, or from its export of a service", failover.Drain, true},
	{"undrain", "Take a drain back", failover.Normal, true},
	{"cordon", "Use a cluster, or its export of a service, only where nothing else is left", failover.Cordon, true},
	{"uncordon", "Take a cordon back", failover.Normal, true},
	{"pin", "Send all traffic of a service to one cluster", failover.Pin, false},
	{"unpin", "Take a pin back", failover.Normal, false},
}

// request is what a command line asks for.
type request struct {
	wish    operator.Wish
	cluster string
	ramp    time.Duration
	dryRun  bool
	wait    bool
	timeout time.Duration
	horizon time.Duration
}

func (t *tool) operateCommands() []*cobra.Command {
	var out []*cobra.Command
	for _, v := range verbs {
		var r request
		use := v.name + " SERVICE --cluster CLUSTER"
		if v.cluster {
			use = v.name + " CLUSTER|SERVICE"
		}
		cmd := &cobra.Command{
			Use: use, Short: v.short, Args: cobra.ExactArgs(1), ValidArgsFunction: t.completeClusters,
			RunE: func(cmd *cobra.Command, args []string) error {
				api, err := t.hub(cmd.Context())
				if err != nil {
					return err
				}
				if r.wish, err = wish(cmd.Context(), api, args[0], r.cluster); err != nil {
					return err
				}
				r.wish.Mode, r.wish.Ramp = v.mode, r.ramp
				if r.dryRun {
					return t.forecast(cmd, api, r)
				}
				return t.operate(cmd, api, r)
			},
		}
		f := cmd.Flags()
		f.StringVar(&r.cluster, "cluster", "", "the `cluster` whose export of the service is meant")
		f.BoolVar(&r.dryRun, "dry-run", false, "only say what it would do")
		f.DurationVar(&r.horizon, "horizon", 10*time.Minute, "how far --dry-run looks")
		r.ramp = -1
		if v.mode == failover.Drain {
			f.DurationVar(&r.ramp, "ramp", -1, "how long the drain takes (default: as the FailoverPolicy says)")
			f.BoolVar(&r.wait, "wait", true, "wait until it is drained, and show how far it is")
			f.DurationVar(&r.timeout, "timeout", 15*time.Minute, "how long to wait at most")
		}
		must(cmd.RegisterFlagCompletionFunc("cluster", t.completeClusters))
		out = append(out, cmd)
	}
	return out
}

// wish finds out what a name means: a member, or a service of the one that --cluster names.
func wish(ctx context.Context, api operator.API, name, cluster string) (operator.Wish, error) {
	if cluster != "" {
		id, err := findService(ctx, api, name)
		return operator.Wish{Cluster: federation.ClusterID(cluster), Service: operator.ServiceID{ServiceID: id}}, err
	}
	s, err := api.Status(ctx)
	if err != nil {
		return operator.Wish{}, err
	}
	var members []string
	for _, c := range s.Clusters {
		if string(c.ID) == name {
			return operator.Wish{Cluster: c.ID}, nil
		}
		members = append(members, string(c.ID))
	}
	if id, err := findService(ctx, api, name); err == nil {
		return operator.Wish{}, usagef("%s is a service: name the cluster too, with --cluster", id)
	}
	return operator.Wish{}, fmt.Errorf("%q is %w: it is no service, and the members are %s", name, operator.ErrNotFound, strings.Join(members, ", "))
}

func (t *tool) operate(cmd *cobra.Command, api operator.API, r request) error {
	op, err := api.Operate(cmd.Context(), r.wish)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	what := subject(r.wish)
	switch {
	case r.wish.Mode == failover.Normal:
		fmt.Fprintf(out, "%s: taken back\n", what)
		return nil
	case r.wish.Mode != failover.Drain:
		fmt.Fprintf(out, "%s: %s\n", what, strings.ToLower(string(r.wish.Mode))+"ed")
		return nil
	case !r.wait:
		fmt.Fprintf(out, "%s: draining, at %d%%; see: tailgate status\n", what, op.Share)
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	err = t.follow(ctx, out, api, r.wish)
	if errors.Is(err, context.DeadlineExceeded) && cmd.Context().Err() == nil {
		return fmt.Errorf("%s is not drained after %s; the drain goes on, take it back with: tailgate undrain %s", what, r.timeout, r.wish.Cluster)
	}
	return err
}

func subject(w operator.Wish) string {
	if w.Service.IsZero() {
		return string(w.Cluster)
	}
	return fmt.Sprintf("%s in %s", short(w.Service), w.Cluster)
}

// follow shows how far a drain is until it is done, or somebody took it back.
func (t *tool) follow(ctx context.Context, out io.Writer, api operator.API, w operator.Wish) error {
	var change uint64
	last := -1
	for {
		all, err := api.Operations(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(o operator.Operation) bool {
			return o.Cluster == w.Cluster && o.Service == w.Service && o.Mode == failover.Drain
		})
		if i < 0 {
			return fmt.Errorf("%s: somebody took the drain back", subject(w))
		}
		if share := int(all[i].Share); share != last {
			fmt.Fprintf(out, "%s: takes %d%% of its share\n", subject(w), share)
			last = share
		}
		if all[i].Done {
			fmt.Fprintf(out, "%s: drained\n", subject(w))
			return nil
		}
		if change, err = api.Wait(ctx, change); err != nil {
			return err
		}
	}
}

func (t *tool) forecast(cmd *cobra.Command, api operator.API, r request) error {
	f, err := api.Forecast(cmd.Context(), r.wish, r.horizon)
	if err != nil {
		return err
	}
	return t.print(cmd, f, func(w *page) { printForecast(w, t.now(), f) })
}

func printForecast(w *page, now time.Time, f operator.Forecast) {
	if len(f.Decisions)+len(f.After) == 0 {
		fmt.Fprintln(w, "It would change nothing.")
		return
	}
	fmt.Fprintln(w, "It would be decided:")
	printRecords(w, now, f.Decisions)
	fmt.Fprintf(w, "\nEndpoint sets that would change: %d\n", len(f.After))
	for i, after := range f.After {
		fmt.Fprintf(w, "  %s from %s\n    now   %s\n    then  %s\n", short(after.Service), after.Consumer, choice(f.Before[i]), choice(after))
	}
	for _, id := range f.Orphans {
		fmt.Fprintf(w, "\nNobody would be left to serve %s.\n", short(id))
	}
}

func (t *tool) journalCommand() *cobra.Command {
	var q operator.JournalQuery
	var service, cluster string
	var limit int
	var follow bool
	cmd := &cobra.Command{
		Use: "journal", Short: "Show what was decided, when and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usagef("--limit %d: want at least 1 decision", limit)
			}
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			if service != "" {
				if q.Service, err = findService(cmd.Context(), api, service); err != nil {
					return err
				}
			}
			q.Cluster = federation.ClusterID(cluster)
			records, err := operator.Newest(cmd.Context(), api, q, limit)
			if err != nil {
				return err
			}
			if err := t.print(cmd, records, func(w *page) { printRecords(w, t.now(), records) }); err != nil || !follow {
				return err
			}
			return t.followJournal(cmd, api, q, records)
		},
	}
	f := cmd.Flags()
	f.StringVar(&service, "service", "", "only of this `service`, and of whole clusters")
	f.StringVar(&cluster, "cluster", "", "only of this `cluster`")
	f.IntVar(&limit, "limit", 20, "how many of the newest")
	f.BoolVarP(&follow, "follow", "f", false, "go on with each new one")
	must(cmd.RegisterFlagCompletionFunc("cluster", t.completeClusters))
	must(cmd.RegisterFlagCompletionFunc("service", t.completeServices))
	return cmd
}

// followJournal prints what is decided from now on.
func (t *tool) followJournal(cmd *cobra.Command, api operator.API, q operator.JournalQuery, seen []operator.Record) error {
	if len(seen) > 0 {
		q.After = seen[len(seen)-1].Seq
	}
	var change uint64
	for {
		var err error
		if change, err = api.Wait(cmd.Context(), change); err != nil {
			if cmd.Context().Err() != nil {
				return nil // the user ended it
			}
			return err
		}
		records, err := api.Journal(cmd.Context(), q)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			continue
		}
		q.After = records[len(records)-1].Seq
		if err := t.print(cmd, records, func(w *page) { printRecords(w, t.now(), records) }); err != nil {
			return err
		}
	}
}

func printRecords(w *page, now time.Time, all []operator.Record) {
	if len(all) == 0 {
		fmt.Fprintln(w, "Nothing was decided.")
		return
	}
	var rows [][]any
	for _, r := range all {
		what := string(r.Cluster)
		if !r.Service.IsZero() {
			what += " " + short(r.Service)
		}
		number := ""
		if r.Seq > 0 {
			number = fmt.Sprint(r.Seq)
		}
		at := age(now, r.At) + " ago"
		switch ahead := r.At.Sub(now); {
		case ahead >= time.Second:
			at = "in " + age(r.At, now)
		case ahead > -time.Second:
			at = "now"
		}
		rows = append(rows, []any{
			number, at, what, cmp.Or(string(r.Consumer), "everybody"), toned(r.To, fmt.Sprintf("%s → %s", r.From, r.To)), string(r.Reason), r.Because,
			r.At.UTC().Format(time.RFC3339Nano),
		})
	}
	w.columns([]string{"NO.", "WHEN", "WHAT", "FOR", "HEALTH", "REASON", "BECAUSE"}, []string{"AT"}, rows)
}
