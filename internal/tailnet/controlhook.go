package tailnet

import (
	"sync"

	"tailscale.com/control/controlclient"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnext"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// controlHook holds the engine's current control client. The engine replaces it at each
// registration.
type controlHook struct {
	mu     sync.Mutex
	client controlclient.Client // may be nil
}

const controlHookName = "subnetrouter-control"

func init() {
	ipnext.RegisterExtension(controlHookName, func(logger.Logf, ipnext.SafeBackend) (ipnext.Extension, error) {
		return new(controlHook), nil
	})
}

// Name implements [ipnext.Extension].
func (h *controlHook) Name() string { return controlHookName }

// Init implements [ipnext.Extension].
func (h *controlHook) Init(host ipnext.Host) error {
	host.Hooks().NewControlClient.Add(func(c controlclient.Client, _ ipn.LoginProfileView) func() {
		h.set(c)
		return nil
	})
	return nil
}

// Shutdown implements [ipnext.Extension].
func (h *controlHook) Shutdown() error {
	h.set(nil)
	return nil
}

func (h *controlHook) set(c controlclient.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = c
}

func (h *controlHook) get() controlclient.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.client
}

// update sends an update without changes: the control client reports a disco key that is
// set at once, even if it has not changed.
func (h *controlHook) update(disco key.DiscoPublic) {
	if c := h.get(); c != nil {
		c.SetDiscoPublicKey(disco)
	}
}

// repoll ends the poll and begins another by pausing and resuming the control client. The
// client repeats an update that was under way. A client that has been shut down ignores
// both calls.
func (h *controlHook) repoll() {
	if c := h.get(); c != nil {
		c.SetPaused(true)
		c.SetPaused(false)
	}
}
