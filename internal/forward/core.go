package forward

import (
	"fmt"
	"net/netip"
	"runtime"
	"time"
)

// core holds the parts that the flow tables of all protocols share. Each part has its own lock, if
// it needs one, and calls no table while it holds that lock. So a table may call every part with its
// own lock held, except for a part that may wait (sender) or call functions of other packages
// (limiter, rules, account).
type core struct {
	rules   *rules
	limits  *limiter
	memory  *bufferBudget
	account *account
	routes  *routeTable
	drops   *drops
	logs    *logQueue
	sched   *scheduler
	poll    *poller
	buffers *bufferPool
	link    *link
	sender  *sender

	dialTimeout, targetKeepAlive time.Duration                                               // of TCP
	clientKeepAlive              func(port uint16) time.Duration                             // of TCP
	preface                      func(client, dst, target netip.AddrPort, front bool) []byte // of TCP
}

// newCore creates the parts and starts the workers and the event queue. cfg has its defaults.
func newCore(cfg *Config) (*core, error) {
	routes, drops := newRouteTable(), newDrops()
	m, err := newMetrics(cfg.Registerer, routes, drops)
	if err != nil {
		return nil, fmt.Errorf("registering forwarder metrics: %w", err)
	}
	memory := new(bufferBudget)
	c := &core{
		memory:  memory,
		rules:   &rules{resolve: cfg.Resolve, deny: cfg.Deny, denyDial: cfg.DenyDial, allow: cfg.Allow, servedAt: cfg.Served, front: cfg.Front, admit: cfg.Admit, stillAdmits: cfg.StillAdmits, denied: m.denied},
		limits:  newLimiter(Limit{Flows: cfg.MaxFlows, FlowsPerPeer: cfg.MaxFlowsPerPeer}, cfg.ReservedFiles, cfg.Peer, memory, m, cfg.Logger),
		account: &account{metrics: m, finished: cfg.Finished},
		routes:  routes, drops: drops, logs: newLogQueue(cfg.Logger), buffers: newBufferPool(), link: newLink(drops),
		dialTimeout: cfg.DialTimeout, targetKeepAlive: cfg.TargetKeepAlive, clientKeepAlive: cfg.KeepAlive, preface: cfg.Preface,
	}
	c.sender = &sender{link: c.link, mtu: cfg.MTU, buffers: c.buffers, drops: drops, rejection: cfg.Rejection}
	c.rules.reject = c.sender.reject
	c.sched = newScheduler(workers())
	if c.poll, err = newPoller(c.sched); err != nil {
		c.sched.close()
		return nil, fmt.Errorf("creating event queue: %w", err)
	}
	return c, nil
}

// close stops the workers and the event queue, and discards the packets that are queued for
// clients. No flow may be open.
func (c *core) close() {
	close(c.link.closed)
	c.poll.close()
	c.sched.close()
}

// workers returns the number of goroutines that move bytes: one more than there are processors,
// because one may be waiting for the link.
func workers() int { return runtime.GOMAXPROCS(0) + 1 }
