package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// report collects measurements and writes the table.
type report struct {
	rounds   int            // the largest number of rounds of a row
	roundsOf map[string]int // by row
	subjects []subject
	rows     []row
	values   map[cell][]float64 // by round; NaN: none
	failures map[cell][]string
}

type cell struct{ row, subject string }

func newReport(rounds func(trial) int, subjects []subject, list []trial) *report {
	r := &report{roundsOf: map[string]int{}, subjects: subjects, values: map[cell][]float64{}, failures: map[cell][]string{}}
	for _, t := range list {
		r.rounds = max(r.rounds, rounds(t))
		for _, row := range t.rows {
			r.roundsOf[row.name] = max(r.roundsOf[row.name], rounds(t))
			if !slices.Contains(r.rows, row) {
				r.rows = append(r.rows, row)
			}
		}
	}
	return r
}

func (r *report) add(row, subject string, round int, value float64, err error) {
	c := cell{row, subject}
	if err != nil {
		r.failures[c] = append(r.failures[c], err.Error())
		return
	}
	if r.values[c] == nil {
		r.values[c] = slices.Repeat([]float64{math.NaN()}, r.rounds)
	}
	r.values[c][round] = value
}

// write writes Markdown: the median of every subject, the median of the ratios within
// each round, and the spread of both.
func (r *report) write(w io.Writer, facts []string) error {
	var b strings.Builder
	b.WriteString("# Benchmark\n\n")
	for _, f := range facts {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	fmt.Fprintf(&b, "- %s; a value is the median of the rounds, with the smallest and the largest, or ± half of the range in percent; a ratio is the median of the ratios within a round, with their range\n", r.roundsText())
	b.WriteString("- CPU and memory are those of the router's processes (stock: both); work of the kernel outside of any process, as in kernel mode, is not included\n\n")

	head := []string{"measure", "unit"}
	for _, s := range r.subjects {
		head = append(head, s.name)
	}
	compared := r.compared()
	hasTargets := slices.ContainsFunc(r.rows, func(row row) bool { return row.maxRatio > 0 })
	for _, p := range compared {
		head = append(head, p.title())
		if p.name == "userspace" && hasTargets {
			head = append(head, "target")
		}
	}
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	var notes []string
	for _, row := range r.rows {
		if !r.measured(row) {
			continue
		}
		cells := []string{row.name, row.unit}
		for _, s := range r.subjects {
			text, note := r.cell(cell{row.name, s.name}, row.minMax)
			if note != "" {
				i := slices.Index(notes, note)
				if i < 0 {
					i, notes = len(notes), append(notes, note)
				}
				text += fmt.Sprintf(" [%d]", i+1)
			}
			cells = append(cells, text)
		}
		for _, p := range compared {
			ratios := r.ratios(row.name, p.ours, p.stock)
			cells = append(cells, spreadOf(ratios))
			if p.name == "userspace" && hasTargets {
				cells = append(cells, row.verdict(ratios))
			}
		}
		line(cells)
	}
	if len(notes) > 0 {
		b.WriteByte('\n')
	}
	for i, n := range notes {
		fmt.Fprintf(&b, "[%d] %s\n\n", i+1, n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// measured reports whether any subject has a value or failure in the row. After an
// interrupt, some rows have none.
func (r *report) measured(row row) bool {
	return slices.ContainsFunc(r.subjects, func(s subject) bool {
		c := cell{row.name, s.name}
		return r.values[c] != nil || r.failures[c] != nil
	})
}

func (r *report) compared() (list []pair) {
	chosen := func(name string) bool {
		return slices.ContainsFunc(r.subjects, func(s subject) bool { return s.name == name })
	}
	for _, p := range pairs {
		if chosen(p.ours) && chosen(p.stock) {
			list = append(list, p)
		}
	}
	return list
}

// roundsText returns the number of rounds, and of rows with fewer than others.
func (r *report) roundsText() string {
	least := r.rounds
	for _, n := range r.roundsOf {
		least = min(least, n)
	}
	if least == r.rounds {
		return plural(r.rounds, "round")
	}
	var longest []string
	for _, row := range r.rows {
		if r.roundsOf[row.name] == r.rounds {
			longest = append(longest, row.name)
		}
	}
	return fmt.Sprintf("%s, and %d of %s", plural(least, "round"), r.rounds, strings.Join(longest, "; "))
}

func (r *report) cell(c cell, minMax bool) (text, note string) {
	values := present(r.values[c])
	failed := r.failures[c]
	if len(failed) > 0 {
		why := strings.Join(slices.Compact(slices.Sorted(slices.Values(failed))), "; ")
		note = fmt.Sprintf("%s failed in %d of %s: %s", c.subject, len(failed), plural(r.roundsOf[c.row], "round"), oneLine(why))
	}
	switch {
	case len(values) > 0:
		text = number(median(values))
		if minMax {
			if len(values) > 1 {
				text += fmt.Sprintf(" (%s–%s)", number(slices.Min(values)), number(slices.Max(values)))
			}
		} else if half := (slices.Max(values) - slices.Min(values)) / 2; len(values) > 1 && median(values) != 0 {
			text += fmt.Sprintf(" ±%.0f%%", 100*half/math.Abs(median(values)))
		}
	case len(failed) > 0:
		text = "failed"
	default:
		text = "–"
	}
	return text, note
}

func (r *report) ratios(row, ours, stock string) (list []float64) {
	a, b := r.values[cell{row, ours}], r.values[cell{row, stock}]
	if a == nil || b == nil {
		return nil
	}
	for i := range a {
		if !math.IsNaN(a[i]) && !math.IsNaN(b[i]) && b[i] != 0 {
			list = append(list, a[i]/b[i])
		}
	}
	return list
}

func (w row) verdict(ratios []float64) string {
	if w.maxRatio == 0 {
		return ""
	}
	text := fmt.Sprintf("≤ %g", w.maxRatio)
	if len(ratios) == 0 {
		return text
	}
	if median(ratios) <= w.maxRatio {
		return text + " met"
	}
	return text + " **missed**"
}

func present(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}

// median returns the median of values, of which there has to be one.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func spreadOf(ratios []float64) string {
	switch len(ratios) {
	case 0:
		return "–"
	case 1:
		return fmt.Sprintf("%.2f", ratios[0])
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
}

// number formats v with three significant digits, or as an integer from 100 on.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0 || a >= 100:
		return count(int(math.Round(v)))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// oneLine shortens a footnote to one line of bounded length.
func oneLine(text string) string {
	const maxLen = 500
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxLen {
		text = text[:maxLen] + " …"
	}
	return text
}
