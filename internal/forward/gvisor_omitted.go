//go:build omit_gvisor

package forward

import "errors"

// newTCPTable fails in a build without gVisor.
func newTCPTable(*core) (flowTable, error) {
	return nil, errors.New("this build has no gVisor: remove ROUTER_TCP_STACK, or build without the tag omit_gvisor")
}
