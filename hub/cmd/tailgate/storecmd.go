package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/hub/store/bolt"
)

// storeCommand works on the file of a hub that does not run.
func storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "store", Short: "Check, back up and restore the file of a hub that does not run",
		Long: `Check, back up and restore the file of a hub that does not run.

The file is hub.db in the hub's --state-dir. A hub that runs has it open, and it is refused then.`,
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "check FILE", Short: "Read everything and say what is broken", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) (err error) {
				db, err := openFile(args[0])
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, db.Close()) }()
				if err := db.Check(cmd.Context()); err != nil {
					return err
				}
				last, err := db.Last(cmd.Context())
				fmt.Fprintf(cmd.OutOrStdout(), "%s is sound; its journal ends at %d\n", args[0], last)
				return err
			},
		},
		&cobra.Command{
			Use: "backup FILE TO", Short: "Write a copy of everything, the journal included", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) (err error) {
				db, err := openFile(args[0])
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, db.Close()) }()
				return writeNew(args[1], func(w io.Writer) error { return db.Backup(cmd.Context(), w) })
			},
		},
		&cobra.Command{
			Use: "restore BACKUP FILE", Short: "Make a hub's file from a backup; one that is there is not overwritten", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) (err error) {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("restore: %w", err)
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				if err := bolt.Restore(args[1], f); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is restored; start the hub on it\n", args[1])
				return nil
			},
		},
	)
	return cmd
}

// openFile opens a hub's file that is there: opening alone would make a new one.
func openFile(path string) (*bolt.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("the hub's file: %w", err)
	}
	return bolt.Open(path, bolt.Options{})
}

// writeNew writes a file that is not there yet, and leaves nothing where that fails.
func writeNew(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("backup: %w", err), os.Remove(path))
	}
	return nil
}
