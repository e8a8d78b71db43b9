package routes

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ParseList reads a comma list, without blanks and each element once, in the order
// written. The error joins one error per bad element; example is the form to write
// instead of an empty list.
func ParseList[T comparable](list, example string, parse func(string) (T, error)) ([]T, error) {
	if strings.TrimSpace(list) == "" {
		return nil, fmt.Errorf("the list is empty: write %s", example)
	}
	var (
		out  []T
		errs []error
	)
	for i, element := range strings.Split(list, ",") {
		element = strings.TrimSpace(element)
		if element == "" {
			errs = append(errs, fmt.Errorf("element %d is empty: remove the extra comma", i+1))
			continue
		}
		v, err := parse(element)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}
