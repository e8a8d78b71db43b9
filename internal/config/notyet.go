package config

// Settings that are read and validated, but whose feature is still to come.
// Whoever adds the feature deletes its line here and its "Not yet supported"
// in the table of variables and the package comment.
var laterVariables = []struct {
	name    string
	feature string
	used    func(*Config) bool
}{
	{"ROUTER_PROBE", "probing", func(c *Config) bool { return c.Probes != nil }},
}

// notYet reports the use of features that are still to come.
func notYet(c *Config, given map[string]setting, r *report) {
	for _, later := range laterVariables {
		if later.used(c) {
			r.problemf(later.name, given[later.name].name, later.feature+" is not yet supported; remove it")
		}
	}
}
