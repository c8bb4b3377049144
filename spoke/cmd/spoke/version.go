package main

import (
	"cmp"
	"runtime/debug"
)

// What the build stamps with -ldflags -X: images are built without version control at hand.
var buildVersion, buildCommit string

// version is that of the program: what the build said, else the module's.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if buildVersion != "" || !ok || info.Main.Version == "(devel)" {
		return cmp.Or(buildVersion, "devel")
	}
	return cmp.Or(info.Main.Version, "devel")
}

// commit is the one that the program was built from, with "-dirty" where files were changed.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if buildCommit != "" || !ok {
		return cmp.Or(buildCommit, "unknown")
	}
	out, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			out = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return out + dirty
}

// versionLine is what --version says beside the program's name.
func versionLine() string { return version() + " (commit " + commit() + ")" }
