package forward

import (
	"context"
	"log/slog"
	"time"
)

// maxQueuedLines bounds the log lines that wait for the logger.
const maxQueuedLines = 64

// logQueue logs the data path's debug lines without making it wait for the logger, whose output
// may be blocked.
type logQueue struct {
	log   *slog.Logger
	lines chan slog.Record
}

func newLogQueue(log *slog.Logger) *logQueue {
	return &logQueue{log: log, lines: make(chan slog.Record, maxQueuedLines)}
}

// debug queues a line. It is lost if the queue is full.
func (q *logQueue) debug(msg string, args ...any) {
	if !q.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	line := slog.NewRecord(time.Now(), slog.LevelDebug, msg, 0)
	line.Add(args...)
	select {
	case q.lines <- line:
	default:
	}
}

// run writes the queued lines until ctx ends.
func (q *logQueue) run(ctx context.Context) {
	for {
		select {
		case line := <-q.lines:
			_ = q.log.Handler().Handle(ctx, line)
		case <-ctx.Done():
			return
		}
	}
}
