package terraform

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// provider6 lists the changes between hashicorp/aws 5.100 and 6.x that concern a resource or
// look-up of the module or its examples. 6.x cannot be had where these tests run, so each
// change has a check of the plan that 5.100 makes. The changes of 6.0.0 are those of
// https://registry.terraform.io/providers/hashicorp/aws/latest/docs/guides/version-6-upgrade
// about a type that occurs here; later ones are in the provider's pull requests.
var provider6 = []struct {
	change, source string
	types          []string // the check needs one of these in some plan
	check          func(r planned) error
}{
	{
		"6.0.0: the region of a data source is in the attribute region, and name is deprecated", "upgrade guide, Data Source aws_region",
		[]string{"aws_ecs_service"},
		func(r planned) error {
			return r.noReference("data.aws_region.current[0].name", "data.aws_region.current.name")
		},
	},
	{
		"6.0.0: inference_accelerator is removed", "upgrade guide, Resource aws_ecs_task_definition",
		[]string{"aws_ecs_task_definition"}, func(r planned) error { return r.without("inference_accelerator") },
	},
	{
		"6.0.0: vpc is removed, in favour of domain", "upgrade guide, Resource aws_eip",
		[]string{"aws_eip"}, func(r planned) error { return r.without("vpc") },
	},
	{
		"6.0.0: resources have an argument region, which 5.x does not know", "upgrade guide, Enhanced Region Support",
		[]string{"aws_ecs_service", "aws_ecs_task_definition", "aws_security_group", "aws_vpc_endpoint"}, func(r planned) error { return r.without("region") },
	},
	{
		"6.x: a changed strategy fails the plan without force_new_deployment", "https://github.com/hashicorp/terraform-provider-aws/pull/43533",
		[]string{"aws_ecs_service"},
		func(r planned) error {
			strategy, _ := r.after["capacity_provider_strategy"].([]any)
			if force, _ := r.after["force_new_deployment"].(bool); len(strategy) > 0 && !force {
				return fmt.Errorf("force_new_deployment is %v", r.after["force_new_deployment"])
			}
			return nil
		},
	},
	{
		"6.x: a service without launch type gets the cluster's default strategy, which then counts as changed", "https://github.com/hashicorp/terraform-provider-aws/issues/44776",
		[]string{"aws_ecs_service"},
		func(r planned) error {
			if strategy, _ := r.after["capacity_provider_strategy"].([]any); len(strategy) == 0 && r.after["launch_type"] == nil {
				return fmt.Errorf("there is neither a launch type nor a strategy")
			}
			return nil
		},
	},
	{
		"6.x: the default of availability_zone_rebalancing is AWS's", "https://github.com/hashicorp/terraform-provider-aws/pull/44117",
		[]string{"aws_ecs_service"}, func(r planned) error { return r.set("availability_zone_rebalancing") },
	},
	{
		"6.x: services are followed by their deployment, within the timeouts", "https://github.com/hashicorp/terraform-provider-aws/pull/49077",
		[]string{"aws_ecs_service"}, func(r planned) error { return r.set("wait_for_steady_state", "timeouts") },
	},
	{
		"6.x: failure_threshold is deprecated, and a plan without it is never empty", "https://github.com/hashicorp/terraform-provider-aws/issues/44285",
		[]string{"aws_service_discovery_service"},
		func(r planned) error {
			custom, _ := r.after["health_check_custom_config"].([]any)
			if len(custom) != 1 || fmt.Sprint(custom[0]) != "map[failure_threshold:1]" {
				return fmt.Errorf("health_check_custom_config is %v", custom)
			}
			return nil
		},
	},
}

// planned is a resource of a plan, with its arguments in the configuration.
type planned struct {
	after       map[string]any
	expressions map[string]json.RawMessage
	plan        plan
}

func (r planned) without(argument string) error {
	if e, ok := r.expressions[argument]; ok {
		return fmt.Errorf("%s is set: %s", argument, e)
	}
	return nil
}

func (r planned) set(arguments ...string) error {
	for _, a := range arguments {
		if _, configured := r.expressions[a]; !configured || r.after[a] == nil {
			return fmt.Errorf("%s is not set", a)
		}
	}
	return nil
}

func (r planned) noReference(references ...string) error {
	for _, text := range references {
		if strings.Contains(string(r.plan.Configuration.RootModule.raw), `"`+text+`"`) {
			return fmt.Errorf("the configuration refers to %s", text)
		}
	}
	return nil
}

// configuration is a module in the part of a plan that repeats the configuration.
type configuration struct {
	Resources []struct {
		Type, Name, Mode string
		Expressions      map[string]json.RawMessage
	}
	ModuleCalls map[string]struct{ Module configuration } `json:"module_calls"`
	raw         json.RawMessage
}

func (c *configuration) UnmarshalJSON(b []byte) error {
	type fields configuration
	var f fields
	err := json.Unmarshal(b, &f)
	*c = configuration(f)
	c.raw = slices.Clone(b)
	return err
}

// expressions returns the arguments of a resource by its address, without keys of
// instances.
func (c configuration) expressions(address []string) map[string]json.RawMessage {
	if len(address) == 4 && address[0] == "module" {
		return c.ModuleCalls[address[1]].Module.expressions(address[2:])
	}
	for _, r := range c.Resources {
		if len(address) == 2 && r.Mode == "managed" && r.Type == address[0] && r.Name == address[1] {
			return r.Expressions
		}
	}
	return nil
}

// checkProvider6 applies the checks to the resources of a plan, and records in seen the
// types that it has.
func checkProvider6(t *testing.T, p plan, seen map[string]bool) {
	t.Helper()
	for _, c := range p.ResourceChanges {
		if c.Mode != "managed" || c.Change.After == nil {
			continue
		}
		seen[c.Type] = true
		r := planned{after: c.Change.After, expressions: p.Configuration.RootModule.expressions(strings.Split(withoutKeys(c.Address), ".")), plan: p}
		if r.expressions == nil {
			t.Errorf("%s is not in the configuration", c.Address)
		}
		for _, change := range provider6 {
			if slices.Contains(change.types, c.Type) {
				if err := change.check(r); err != nil {
					t.Errorf("%s: %v (%s: %s)", c.Address, err, change.change, change.source)
				}
			}
		}
	}
}

// checkProvider6Types reports checks whose types are in no plan.
func checkProvider6Types(t *testing.T, seen map[string]bool) {
	t.Helper()
	for _, change := range provider6 {
		for _, typ := range change.types {
			if !seen[typ] {
				t.Errorf("no plan has a resource %s, of %v, for the check %q", typ, slices.Sorted(maps.Keys(seen)), change.change)
			}
		}
	}
}

// withoutKeys removes the keys of instances, such as [0], from an address.
func withoutKeys(address string) string {
	for {
		open := strings.Index(address, "[")
		if open < 0 {
			return address
		}
		address = address[:open] + address[open+strings.Index(address[open:], "]")+1:]
	}
}
