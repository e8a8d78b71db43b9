package forward

import "time"

// epoch is the zero of instants. It is far enough in the past for instants to be positive with
// the clock of testing/synctest, which starts in the year 2000 and is not monotonic.
var epoch = time.Now().Add(-50 * 365 * 24 * time.Hour)

// instant returns t in nanoseconds since epoch, by the monotonic clock: a step of the wall
// clock must neither end flows nor keep them open. It is positive.
func instant(t time.Time) int64 { return int64(t.Sub(epoch)) }
