package router

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"subnetrouter/internal/egress"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// flowLogQueue bounds the finished flows that wait to be written. When the log is slower,
// records are dropped and counted: the data path never waits.
const flowLogQueue = 4096

// line returns the attributes of a flow's line. The log's goroutine calls it, as the look-up of a node takes time.
type line func(whoIs func(netip.Addr) tailnet.Peer) []any

// flowLog writes one line for each finished flow, with the node and user of its client.
type flowLog struct {
	flows   chan line
	log     slog.Handler
	whoIs   func(netip.Addr) tailnet.Peer
	dropped prometheus.Counter
}

func newFlowLog(log slog.Handler, reg prometheus.Registerer, whoIs func(netip.Addr) tailnet.Peer) *flowLog {
	l := &flowLog{
		flows: make(chan line, flowLogQueue), log: log, whoIs: whoIs,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_flow_log_dropped_total",
			Help: "Finished flows missing in the flow log, because its output was too slow.",
		}),
	}
	reg.MustRegister(l.dropped)
	return l
}

// finished queues a flow from the tailnet to be written. The data path calls it; it does not block.
func (l *flowLog) finished(f forward.Flow) {
	l.queue(func(whoIs func(netip.Addr) tailnet.Peer) []any {
		who := whoIs(f.Client.Addr())
		attrs := []any{
			"protocol", f.Protocol.String(), "client", f.Client.String(), "node", who.Node, "user", who.User, "tags", who.Tags,
			"target", f.Target.String(), "started", f.Opened, "duration_seconds", f.Duration.Seconds(),
			"to_vpc_bytes", f.ToVPCBytes, "to_tailnet_bytes", f.ToTailnetBytes,
			"to_vpc_packets", f.ToVPCPackets, "to_tailnet_packets", f.ToTailnetPackets, "reason", f.End,
		}
		if f.Rule != "" {
			attrs = append(attrs, "rule", f.Rule)
		}
		if f.Dial > 0 {
			attrs = append(attrs, "dial_seconds", f.Dial.Seconds())
		}
		if f.Address != f.Target {
			attrs = append(attrs, "via", f.Address.String())
		}
		return attrs
	})
}

// finishedEgress is finished for a flow into the tailnet. The node, its user and tags are those of the target.
func (l *flowLog) finishedEgress(f egress.Flow) {
	l.queue(func(whoIs func(netip.Addr) tailnet.Peer) []any {
		who := whoIs(f.Address.Addr())
		return []any{
			"protocol", f.Protocol, "direction", "to_tailnet", "listener", f.Via, "client", f.Client.String(),
			"target", f.Target, "address", f.Address.String(), "node", who.Node, "user", who.User, "tags", who.Tags,
			"started", f.Opened, "duration_seconds", f.Duration.Seconds(),
			"to_vpc_bytes", f.ToVPCBytes, "to_tailnet_bytes", f.ToTailnetBytes, "reason", f.End, "dial_seconds", f.Dial.Seconds(),
		}
	})
}

func (l *flowLog) queue(line line) {
	select {
	case l.flows <- line:
	default:
		l.dropped.Inc()
	}
}

// run writes the queued flows until ctx ends and the queue is empty.
func (l *flowLog) run(ctx context.Context) error {
	for {
		select {
		case f := <-l.flows:
			l.write(f)
		case <-ctx.Done():
			for {
				select {
				case f := <-l.flows:
					l.write(f)
				default:
					return nil
				}
			}
		}
	}
}

func (l *flowLog) write(line line) {
	record := slog.NewRecord(time.Now(), slog.LevelInfo, "flow", 0)
	record.Add(line(l.whoIs)...)
	if l.log.Handle(context.Background(), record) != nil {
		l.dropped.Inc()
	}
}
