package doctor

import "context"

// state checks that the place in ROUTER_STATE can be read. Whether it can be written shows
// only at a start.
func (e *exam) state(ctx context.Context) Result {
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	value, err := boot.ExamineIdentity(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	return pass(value)
}
