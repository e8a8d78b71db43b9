package awstest

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// selectPage returns the requested page of the items that pass all filters. values
// returns an item's values for a filter's name; ok is false if the action has no such
// filter.
func selectPage[T any](w World, form url.Values, items []T, values func(item T, filter string) (v []string, ok bool)) (page []T, next, code, message string) {
	page = slices.Clone(items)
	for i, name := range numbered(form, "Filter.%d.Name") {
		wanted := patterns(numbered(form, fmt.Sprintf("Filter.%d.Value.%%d", i+1)))
		var zero T
		if _, ok := values(zero, name); !ok {
			return nil, "", "InvalidParameterValue", fmt.Sprintf("The filter '%s' is invalid", name)
		}
		page = slices.DeleteFunc(page, func(item T) bool {
			v, _ := values(item, name)
			return !slices.ContainsFunc(v, wanted.MatchString)
		})
	}
	from, _ := strconv.Atoi(form.Get("NextToken"))
	size := len(page)
	if limit, err := strconv.Atoi(form.Get("MaxResults")); err == nil {
		size = limit
	}
	if w.PageSize > 0 {
		size = min(size, w.PageSize)
	}
	page = page[min(from, len(page)):]
	if len(page) > size {
		page, next = page[:size], strconv.Itoa(from+size)
	}
	return page, next, "", ""
}

// patterns compiles the values of a filter into one expression: * and ? are wildcards
// unless \ precedes them.
func patterns(values []string) *regexp.Regexp {
	wildcards := strings.NewReplacer(`\\\*`, `\*`, `\\\?`, `\?`, `\*`, `.*`, `\?`, `.`)
	var list []string
	for _, v := range values {
		list = append(list, wildcards.Replace(regexp.QuoteMeta(v)))
	}
	return regexp.MustCompile(`^(?:` + strings.Join(list, "|") + `)$`)
}
