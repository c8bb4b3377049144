// Command webapp is the workload of the demo and the tests: an HTTP server that says which cluster answers. It is
// test equipment.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// answer is the body of every answer.
type answer struct {
	Cluster string      `json:"cluster"`
	Method  string      `json:"method"`
	Host    string      `json:"host"`
	Path    string      `json:"path"`
	Header  http.Header `json:"header"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to listen on")
	cluster := flag.String("cluster", "", "`name` of the cluster that answers; the host's name, which is a pod's, by default")
	port := flag.String("port", "", "`port` to listen on at all addresses, as traefik/whoami has it, in whose place this can stand")
	flag.Parse()
	if *port != "" {
		*listen = ":" + *port
	}
	if *cluster == "" {
		*cluster, _ = os.Hostname() // nameless it is no worse
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *cluster); err != nil {
		fmt.Fprintln(os.Stderr, "webapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, cluster string) error {
	srv := &http.Server{
		Addr:              listen,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			a := answer{Cluster: cluster, Method: r.Method, Host: r.Host, Path: r.URL.Path, Header: r.Header}
			if err := json.NewEncoder(w).Encode(a); err != nil {
				fmt.Fprintln(os.Stderr, "webapp: write an answer:", err)
			}
		}),
	}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(grace)
	})
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
