// Package browsertest drives a real browser, Debian's chromium, in tests. It reads the
// visible text of a page and takes pictures of it.
package browsertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"sync"
	"testing"

	"subnetrouter/internal/testwait"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Page is one tab.
type Page struct {
	t       testing.TB
	ctx     context.Context
	browser *exec.Cmd

	mu       sync.Mutex
	troubles []string
}

// Options describe the screen. The zero value is a laptop with a light colour scheme.
type Options struct {
	Width, Height int64 // in CSS pixels; default 1100 by 900
	Dark          bool
}

// Open starts a browser that ends with the test, and loads url. If chromium is missing,
// it skips the test, or fails it if CI=true.
func Open(t testing.TB, url string, o Options) *Page {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no chromium: run scripts/tools")
		}
		t.Skip("no chromium: run scripts/tools")
	}
	if o.Width == 0 {
		o.Width, o.Height = 1100, 900
	}
	p := &Page{t: t}
	profile := t.TempDir()
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.NoSandbox, // chromium has none as root; the page is trusted
		chromedp.UserDataDir(profile),
		chromedp.ModifyCmdFunc(p.own),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(testwait.Limit()),
	)
	// Not the test's context: it ends before the clean-up, and chromedp would then kill
	// only the first process.
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), flags...)
	ctx, endBrowser := chromedp.NewContext(allocator)
	p.ctx = ctx
	t.Cleanup(func() {
		p.kill()
		endBrowser()
		endAllocator()
	})
	chromedp.ListenTarget(ctx, p.listen)
	scheme := "light"
	if o.Dark {
		scheme = "dark"
	}
	p.do("opening "+url, log.Enable(),
		chromedp.EmulateViewport(o.Width, o.Height),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.Navigate(url))
	return p
}

func (p *Page) listen(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		p.troubles = append(p.troubles, e.ExceptionDetails.Error())
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
			p.troubles = append(p.troubles, e.Entry.Text+" "+e.Entry.URL)
		}
	case *page.EventJavascriptDialogOpening:
		p.troubles = append(p.troubles, "a dialog: "+e.Message)
	}
}

// Troubles returns the errors and warnings that the browser has reported about scripts,
// the page's content security policy and the network.
func (p *Page) Troubles() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.troubles...)
}

func (p *Page) do(action string, actions ...chromedp.Action) {
	p.t.Helper()
	// The first Run starts the browser, which lives as long as that Run's context.
	if chromedp.FromContext(p.ctx).Browser == nil {
		if err := p.start(); err != nil {
			p.t.Fatalf("starting chromium: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, testwait.Limit())
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.t.Fatalf("%s: %v", action, err)
	}
}

// start starts the browser from a thread that lives until p.ctx ends: with Pdeathsig, the
// kernel kills it when the thread that started it exits, as threads do that have been in
// a network namespace.
func (p *Page) start() error {
	started := make(chan error)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		started <- chromedp.Run(p.ctx)
		<-p.ctx.Done()
	}()
	return <-started
}

// Evaluate returns the result of a script, decoded from JSON.
func Evaluate[T any](p *Page, script string) (result T) {
	p.t.Helper()
	p.do("evaluating "+script, chromedp.Evaluate(script, &result))
	return result
}

// Text returns the visible text of the page.
func (p *Page) Text() string {
	p.t.Helper()
	return Evaluate[string](p, "document.body.innerText")
}

// Await waits until cond accepts the visible text, and returns it. The name of the
// condition is for the failure message.
func (p *Page) Await(name string, cond func(text string) bool) string {
	p.t.Helper()
	var text string
	testwait.Until(p.t, "the page to show "+name, func() error {
		if text = p.Text(); cond(text) {
			return nil
		}
		return fmt.Errorf("it shows:\n%s", text)
	})
	return text
}

// Picture returns the whole page as a PNG.
func (p *Page) Picture() (png []byte) {
	p.t.Helper()
	p.do("taking a picture", chromedp.FullScreenshot(&png, 100))
	return png
}

// Save writes a picture of the page to a file.
func (p *Page) Save(file string) {
	p.t.Helper()
	small, err := fewColors(p.Picture())
	if err == nil {
		err = os.WriteFile(file, small, 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Logf("%s: %d bytes", file, len(small))
}
