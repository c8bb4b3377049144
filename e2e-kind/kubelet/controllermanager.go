package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// ControllerManagerOptions are all required.
type ControllerManagerOptions struct {
	// Path is the program, see assets.FindControllerManager.
	Path string
	// Kubeconfig is for the cluster, with the rights of an admin.
	Kubeconfig string
	// Controllers are those that run, by the names that the program's --help has. Without nodes most of them would only get
	// in the way.
	Controllers []string
	// Dir gets the log; it must exist.
	Dir string
	// Supervisor runs the process.
	Supervisor *machine.Supervisor
}

// StartControllerManager starts a real kube-controller-manager, with the Pods that it makes left to [Pods]. It runs until
// the supervisor stops it.
func StartControllerManager(ctx context.Context, o ControllerManagerOptions) (*machine.Running, error) {
	if o.Path == "" || o.Kubeconfig == "" || len(o.Controllers) == 0 || o.Dir == "" || o.Supervisor == nil {
		return nil, errors.New("start kube-controller-manager: an option is missing")
	}
	r, err := o.Supervisor.Start(ctx, machine.Process{
		Name: "kube-controller-manager of " + filepath.Base(o.Dir), Path: o.Path, LogFile: filepath.Join(o.Dir, "kube-controller-manager.log"),
		Args: []string{
			"--kubeconfig=" + o.Kubeconfig, "--leader-elect=false", "--secure-port=0", // nobody asks it for anything
			"--controllers=" + strings.Join(o.Controllers, ","),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start kube-controller-manager: %w", err)
	}
	return r, nil
}
