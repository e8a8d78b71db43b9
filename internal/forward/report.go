package forward

import (
	"context"
	"log/slog"
	"time"
)

// maxQueuedLines bounds the log lines that wait for the logger.
const maxQueuedLines = 64

// debug logs without waiting for the logger, whose output may be blocked. A line is lost if the
// queue is full.
func (f *Forwarder) debug(msg string, args ...any) {
	if !f.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	line := slog.NewRecord(time.Now(), slog.LevelDebug, msg, 0)
	line.Add(args...)
	select {
	case f.logLines <- line:
	default:
	}
}

// writeLog writes the queued log lines until ctx ends.
func (f *Forwarder) writeLog(ctx context.Context) {
	for {
		select {
		case line := <-f.logLines:
			_ = f.log.Handler().Handle(ctx, line)
		case <-ctx.Done():
			return
		}
	}
}
