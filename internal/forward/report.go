package forward

import (
	"context"
	"log/slog"
)

// queuedReports bounds the log lines that wait for the logger.
const queuedReports = 64

// report is a log line of the data path.
type report struct {
	msg  string
	args []any
}

// debug logs without waiting for the logger, whose output may be blocked: the data path
// must go on. A line is lost if too many wait.
func (f *Forwarder) debug(msg string, args ...any) {
	if !f.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	select {
	case f.reports <- report{msg, args}:
	default:
	}
}

// report writes the log lines of the data path.
func (f *Forwarder) report(ctx context.Context) {
	for {
		select {
		case r := <-f.reports:
			f.log.Debug(r.msg, r.args...)
		case <-ctx.Done():
			return
		}
	}
}
