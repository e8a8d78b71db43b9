package forward

import "time"

// epoch is the zero of instants. It lies so far back that they are positive for the
// clock of testing/synctest, too, which begins in the year 2000 and is not monotonic.
var epoch = time.Now().Add(-50 * 365 * 24 * time.Hour)

// instant is t as a number of nanoseconds, by the monotonic clock: a step of the wall
// clock must neither end flows nor keep them. It is positive.
func instant(t time.Time) int64 { return int64(t.Sub(epoch)) }
