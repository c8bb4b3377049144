// Command tailgate is the command line of those who run a federation: it asks the hub how things are and why, and tells it
// what is wanted. Under the name kubectl-tailgate it is a plugin of kubectl.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/api/operator"
)

// The exit codes besides 0.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tool{now: time.Now}
	t.hub = t.connection.hub
	root := t.root(filepath.Base(os.Args[0]))
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tailgate:", err)
		if _, usage := errors.AsType[usageError](err); usage {
			os.Exit(exitUsage)
		}
		os.Exit(exitFailed)
	}
}

// tool is what the commands have in common.
type tool struct {
	connection
	// hub opens the way to the hub that the flags name.
	hub func(ctx context.Context) (operator.API, error)
	now func() time.Time
	// format and color are --output and --color.
	format, color string
}

// usageError is a mistake in the command line itself.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// root is the command itself, under the name that it was called by.
func (t *tool) root(name string) *cobra.Command {
	use := "tailgate"
	if strings.HasPrefix(name, "kubectl-") {
		use = "kubectl tailgate"
	}
	root := &cobra.Command{
		Use: "tailgate", Short: "See and steer a federation of clusters", SilenceUsage: true, SilenceErrors: true,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: use},
		Version:     version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&t.url, "hub", os.Getenv("TAILGATE_HUB"), "`URL` of the hub, as http://tailgate-hub on the tailnet (default: $TAILGATE_HUB, else the hub's pod, through the management cluster's API server)")
	f.StringVar(&t.kubeconfig, "kubeconfig", "", "`file` for the management cluster (default: $KUBECONFIG, else ~/.kube/config)")
	f.StringVar(&t.context, "context", "", "`name` of the kubeconfig's context for the management cluster (default: the current one)")
	f.StringVarP(&t.namespace, "namespace", "n", "tailgate-system", "`namespace` of the hub")
	f.StringVarP(&t.format, "output", "o", asTable, "how to print: table, wide, json or yaml")
	f.StringVar(&t.color, "color", colorAuto, "when to paint tables: auto (on a terminal, unless $NO_COLOR is set), always or never")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{asTable, asWide, asJSON, asYAML}, cobra.ShellCompDirectiveNoFileComp)))
	must(root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{colorAuto, colorAlways, colorNever}, cobra.ShellCompDirectiveNoFileComp)))
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return t.checkOutput() }
	root.AddCommand(
		t.statusCommand(), t.vipsCommand(), t.servicesCommand(), t.endpointsCommand(), t.explainCommand(), t.journalCommand(),
		t.joinCommand(), t.leaveCommand(), t.verifyCommand(), t.gatherCommand(), storeCommand(),
	)
	root.AddCommand(t.operateCommands()...)
	for _, c := range root.Commands() {
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, a []string) error {
				if err := args(cmd, a); err != nil {
					return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
				}
				return nil
			}
		}
	}
	return root
}
