package main

import (
	"cmp"
	"runtime/debug"
)

// buildVersion is what the build stamps with -ldflags -X.
var buildVersion string

// version is what the build said, else the module's.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "(devel)" {
		return cmp.Or(buildVersion, "devel")
	}
	return cmp.Or(buildVersion, info.Main.Version, "devel")
}
