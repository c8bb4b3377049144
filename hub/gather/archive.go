package gather

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"
)

// archive is a gzipped tar archive of scrubbed text, all below one directory.
type archive struct {
	scrubber Scrubber
	files    []string

	dir  string
	made time.Time
	gzip *gzip.Writer
	tar  *tar.Writer
	err  error
}

func newArchive(w io.Writer, dir string, made time.Time) *archive {
	z := gzip.NewWriter(w)
	return &archive{dir: dir, made: made, gzip: z, tar: tar.NewWriter(z)}
}

// add adds a file. After an error nothing more is added.
func (a *archive) add(path string, text []byte) {
	if a.err != nil {
		return
	}
	text = []byte(a.scrubber.Scrub(string(text)))
	h := &tar.Header{Typeflag: tar.TypeReg, Name: a.dir + "/" + path, Size: int64(len(text)), Mode: 0o600, ModTime: a.made, Format: tar.FormatPAX}
	if a.err = a.tar.WriteHeader(h); a.err == nil {
		_, a.err = a.tar.Write(text)
	}
	if a.err == nil {
		a.files = append(a.files, path)
	}
}

// Close ends the archive, and says what went wrong with it.
func (a *archive) Close() error {
	if err := errors.Join(a.err, a.tar.Close(), a.gzip.Close()); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}
