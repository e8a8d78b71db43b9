package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"subnetrouter/internal/processors"
)

// calmRuntime starts this program once more, in the same process, with a runtime that
// costs less between packets: it reads how to behave only as it starts. It takes some 9 ms,
// and returns only with an error, where there is nothing to change, or if a signal has
// come.
func calmRuntime(environ []string, stop *stopper) error {
	const variable = "GODEBUG"
	godebug := environment(environ, variable)
	calm := processors.Calm(godebug)
	if calm == godebug {
		return nil
	}
	proceed := stop.suspend()
	defer stop.resume()
	if !proceed {
		return nil
	}
	unblockStandardError()
	self, err := os.Executable()
	if err == nil {
		others := slices.DeleteFunc(slices.Clone(environ), func(e string) bool { return strings.HasPrefix(e, variable+"=") })
		err = syscall.Exec(self, os.Args, append(others, variable+"="+calm))
	}
	return fmt.Errorf("starting once more with another GODEBUG: %w", err)
}
