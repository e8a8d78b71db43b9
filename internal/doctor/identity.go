package doctor

import (
	"context"
	"errors"
	"io/fs"

	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/privilege"
)

// state checks that the place in ROUTER_STATE can be read. Whether it can be written shows
// only at a start.
func (e *exam) state(ctx context.Context) Result {
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	value, err := boot.ExamineIdentity(ctx)
	if dir := identity.Dir(e.Config.Identity.Source); dir != "" && errors.Is(err, fs.ErrPermission) && privilege.FolderTakeable() {
		return pass(dir + ": another user's, which the router takes over when it starts, unless it has files that are not a node's or its path has a link")
	}
	if err != nil {
		return failed(err, awsReach)
	}
	return pass(value)
}
