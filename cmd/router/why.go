package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/why"
)

// whyAskTimeout is longer than the router takes for an answer at most.
const whyAskTimeout = 30 * time.Second

func whyCommand(own *flag.FlagSet) func(context.Context, call) int {
	from := own.String("from", "", "`NODE` or user whose access to check; without it, any client's")
	udp := own.Bool("udp", false, "ask about UDP, not TCP")
	icmp := own.Bool("icmp", false, "ask about ping; the target is HOST")
	asJSON := own.Bool("json", false, "print JSON")
	return func(ctx context.Context, in call) int {
		var target string
		target, in.args = argument(in.args)
		listen, code, ok := in.listen()
		if !ok {
			return code
		}
		protocol := why.TCP
		switch {
		case *udp && *icmp:
			fmt.Fprintln(in.err, "--udp, --icmp: use only one of them")
			return exitConfig
		case target == "":
			fmt.Fprintln(in.err, "no target: write `router why HOST:PORT`, or `router why HOST --icmp`")
			return exitConfig
		case *udp:
			protocol = why.UDP
		case *icmp:
			protocol = why.ICMP
		}
		if _, err := why.Ask(target, *from, protocol); err != nil {
			fmt.Fprintln(in.err, err)
			return exitConfig
		}
		answer, body, err := askWhy(ctx, listen, url.Values{"target": {target}, "from": {*from}, "protocol": {string(protocol)}})
		switch {
		case err != nil:
			fmt.Fprintln(in.err, err)
			return exitFailed
		case *asJSON:
			in.out.Write(body)
		default:
			in.show(func(w io.Writer) { printAnswer(w, answer) })
		}
		if !answer.Passes {
			return exitFailed
		}
		return exitOK
	}
}

// argument returns the argument that is not a flag, which comes first or last, and the others.
func argument(args []string) (target string, flags []string) {
	n := len(args)
	switch {
	case n > 0 && !strings.HasPrefix(args[0], "-"):
		return args[0], args[1:]
	case n > 0 && !strings.HasPrefix(args[n-1], "-"):
		return args[n-1], args[:n-1]
	}
	return "", args
}

func askWhy(ctx context.Context, listen string, query url.Values) (a why.Answer, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, whyAskTimeout)
	defer cancel()
	at := config.LocalURL(listen, "/why")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+"?"+query.Encode(), nil)
	if err != nil {
		return a, nil, err
	}
	resp, err := localClient.Do(req)
	if err != nil {
		return a, nil, fmt.Errorf("asking the router at %s: %w; is it running, with the same ROUTER_LISTEN?", at, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking the router at %s: HTTP %d: %s", at, resp.StatusCode, bytes.TrimSpace(body))
	}
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	return a, body, err
}

func printAnswer(w io.Writer, a why.Answer) {
	flow := a.Question.String()
	if a.Question.From != "" {
		flow += " from " + a.Question.From
	}
	first, _ := a.First(why.Stop)
	if a.Passes {
		fmt.Fprintf(w, "%s: nothing stops it\n\n", flow)
	} else {
		fmt.Fprintf(w, "%s: stopped by %s: %s\n", flow, first.Name, first.Evidence)
		if first.Fix != "" {
			fmt.Fprintf(w, "  fix: %s\n", first.Fix)
		}
		fmt.Fprintln(w)
	}
	for _, s := range a.Steps {
		fmt.Fprintf(w, "%-7s  %-18s  %s\n", s.Verdict, s.Name, s.Evidence)
		if s.Fix != "" && s.Name != first.Name {
			fmt.Fprintf(w, "%27s  fix: %s\n", "", s.Fix)
		}
	}
}
