package forward

import "time"

// account counts the data and the ends of flows, for each protocol, each route and each flow.
// Nothing else touches these counters, so that the total of a figure is the sum over the routes
// and over the flows. Packets that are dropped are counted by [drops].
type account struct {
	*metrics
	finished func(Flow) // [Config.Finished]; nil for none
}

// flowFailed counts a flow that could not be opened.
func (a *account) flowFailed(p Protocol, to *route, reason string) {
	a.failed[p][reason].Inc()
	to.failed[reason].Inc()
}

// dialed counts a dial, failed or not, and the time that it took.
func (a *account) dialed(took time.Duration) { a.dialDuration.Observe(took.Seconds()) }

// echoSent counts an echo request and its data, in bytes.
func (a *account) echoSent(to *route, bytes int) {
	a.opened[ICMP].Inc()
	a.bytesUp(ICMP, to, bytes)
}

// flowOpened counts a flow that is open. flowEnded must follow, once.
func (a *account) flowOpened(p Protocol) {
	a.opened[p].Inc()
	a.active[p].Inc()
}

// flowEnded counts a flow that was open, and reports it.
func (a *account) flowEnded(r *record, reason string) {
	a.active[r.protocol].Dec()
	a.closed[r.protocol][reason].Inc()
	if a.finished != nil {
		a.finished(r.describe(reason))
	}
}

// sentUp counts data that a flow sent to its target.
func (a *account) sentUp(r *record, bytes, packets int) {
	r.up.count(bytes, packets)
	a.bytesUp(r.protocol, r.route, bytes)
}

// sentDown counts data that a flow sent to its client.
func (a *account) sentDown(r *record, bytes, packets int) {
	r.down.count(bytes, packets)
	a.bytesDown(r.protocol, r.route, bytes)
}

// bytesUp counts payload bytes towards the VPC that belong to no flow.
func (a *account) bytesUp(p Protocol, to *route, bytes int) {
	a.toVPC[p].Add(float64(bytes))
	to.toVPC.Add(float64(bytes))
}

// bytesDown counts payload bytes towards the tailnet that belong to no flow.
func (a *account) bytesDown(p Protocol, to *route, bytes int) {
	a.toTailnet[p].Add(float64(bytes))
	to.toTailnet.Add(float64(bytes))
}
