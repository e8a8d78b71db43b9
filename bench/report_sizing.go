package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// sizingColumns are the measures of the table of group sizing, in the order of sizingTrials.
var sizingColumns = []string{
	"TCP down, Mbit/s", "TCP up, Mbit/s", "new connections/s", "DNS queries/s", "open flows", "TCP down over 60 ms with 0.1 % loss, Mbit/s",
}

// fullShare is the share of its CPUs, in percent, from which a router counts as the limit of a
// measurement. A quota is handed out in slices, so that none is used completely.
const fullShare = 90

// writeSizing writes the facts, and a Markdown table with a line for each size and mode: the
// part of docs/sizing.md between its markers.
func (r *report) writeSizing(w io.Writer, facts []string) error {
	var b strings.Builder
	line := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := append([]string{"mode", "vCPU", "memory"}, sizingColumns...)
	line(head...)
	line(slices.Repeat([]string{"---"}, len(head))...)
	var notes []string
	for _, s := range r.subjects {
		mode, _, _ := strings.Cut(s.name, "-")
		cells := []string{mode, fmt.Sprintf("%g", s.limits.cpus), fmt.Sprintf("%g GB", float64(s.limits.memoryMiB)/1024)}
		for _, t := range sizingTrials(full) {
			row := t.rows[0]
			text, note := r.cell(cell{row.name, s.name}, row.minMax)
			if r.open(row.name, s.name) {
				text = "≥ " + text
			}
			if note != "" {
				notes = append(notes, note)
				text += fmt.Sprintf(" [%d]", len(notes))
			}
			cells = append(cells, text)
		}
		line(cells...)
	}
	b.WriteString("\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "[%d] %s\n\n", i+1, n)
	}
	fmt.Fprintf(&b, "- ≥: bounded by the machine, not by the size: the router used less than %d %% of its CPUs, while client and servers shared the machine's processors with it; open flows: all that the client tried, within the machine's limit of open files\n", fullShare)
	fmt.Fprintf(&b, "- %s; a value is the median, ± half of the range, or with the smallest and the largest\n", r.roundsText())
	for _, f := range facts {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// open reports whether a value is a lower bound: something other than the router was the limit.
func (r *report) open(row, subject string) bool {
	share, values := present(r.values[cell{row + shareOf, subject}]), present(r.values[cell{row, subject}])
	if len(share) > 0 {
		return median(share) < fullShare
	}
	tried := present(r.values[cell{triedRow, subject}])
	return row == fitRow && len(values) > 0 && len(tried) > 0 && median(values) >= median(tried)
}
