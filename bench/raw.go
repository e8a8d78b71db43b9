package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
)

// writeRaw writes every value to a file.
func (r *report) writeRaw(name string, facts []string) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("writing raw data: %w", err)
	}
	if err := errors.Join(r.encodeRaw(file, facts), file.Close()); err != nil {
		return fmt.Errorf("writing raw data: %w", err)
	}
	return nil
}

// encodeRaw writes CSV with one line for each value or failure, after comments with the
// facts. Rounds count from 1; a failure has no round, since it may be one of a start.
func (r *report) encodeRaw(w io.Writer, facts []string) error {
	for _, f := range facts {
		if _, err := fmt.Fprintf(w, "# %s\n", f); err != nil {
			return err
		}
	}
	lines := csv.NewWriter(w)
	lines.Write([]string{"measure", "unit", "subject", "round", "value", "failure"})
	for _, row := range r.rows {
		for _, s := range r.subjects {
			c := cell{row.name, s.name}
			for round, v := range r.values[c] {
				if !math.IsNaN(v) {
					lines.Write([]string{row.name, row.unit, s.name, strconv.Itoa(round + 1), strconv.FormatFloat(v, 'g', 6, 64), ""})
				}
			}
			for _, why := range r.failures[c] {
				lines.Write([]string{row.name, row.unit, s.name, "", "", oneLine(why)})
			}
		}
	}
	lines.Flush()
	return lines.Error()
}
