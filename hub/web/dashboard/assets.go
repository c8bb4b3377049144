package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed assets
var assetFiles embed.FS

// assets are the embedded files, by names that change with what is in them.
type assets struct {
	files map[string]asset
	paths map[string]string
	// build changes with any of them.
	build string
}

type asset struct {
	data []byte
	etag string
}

// newAssets reads what is embedded.
func newAssets() assets {
	a := assets{files: map[string]asset{}, paths: map[string]string{}}
	all := sha256.New()
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // they are part of this program
	}
	for _, e := range entries {
		data, err := assetFiles.ReadFile(path.Join("assets", e.Name()))
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(data)
		all.Write(sum[:])
		hash := hex.EncodeToString(sum[:6])
		ext := path.Ext(e.Name())
		name := strings.TrimSuffix(e.Name(), ext) + "." + hash + ext
		a.files[name] = asset{data, `"` + hash + `"`}
		a.paths[e.Name()] = "/assets/" + name
	}
	a.build = hex.EncodeToString(all.Sum(nil)[:6])
	return a
}

// path returns where a file is.
func (a assets) path(name string) string { return a.paths[name] }

// ServeHTTP serves a file for ever: another content has another name.
func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := a.files[r.PathValue("name")]
	if !ok {
		http.Error(w, "There is no such file. Reload the page: the hub may have been upgraded.", http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", f.etag)
	http.ServeContent(w, r, r.PathValue("name"), time.Time{}, bytes.NewReader(f.data))
}
