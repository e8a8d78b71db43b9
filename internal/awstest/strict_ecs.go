package awstest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

const ecsAPI = "https://docs.aws.amazon.com/AmazonECS/latest/APIReference/"

var ecsRules = []Rule{
	{
		Name:     "task definition: omitted lists are stored as empty lists",
		Sentence: "ECS stores and returns lists that were left out, such as the added capabilities, as empty lists.",
		Source:   "https://github.com/braintrustdata/terraform-aws-braintrust-data-plane/pull/335",
		after: func(_ *Strict, c *call) {
			for _, container := range containers(c) {
				container.fill(fields{"cpu": 0, "environment": []any{}, "mountPoints": []any{}, "volumesFrom": []any{}, "portMappings": []any{}, "systemControls": []any{}})
				if capabilities := container.object("linuxParameters").object("capabilities"); capabilities != nil {
					capabilities.fill(fields{"add": []any{}, "drop": []any{}})
				}
			}
		},
	},
	{
		Name:     "task definition: defaults of a health check",
		Sentence: "A health check runs every 30 s, may take 5 s, and makes the container unhealthy after 3 failures, unless it sets other values.",
		Source:   ecsAPI + "API_HealthCheck.html",
		after: func(_ *Strict, c *call) {
			for _, container := range containers(c) {
				if check := container.object("healthCheck"); check != nil {
					check.fill(fields{"interval": 30, "timeout": 5, "retries": 3})
				}
			}
		},
	},
	{
		Name:     "task definition: defaults of a port",
		Sentence: "With awsvpc, the host port is the container port; the protocol is tcp unless another one is given.",
		Source:   ecsAPI + "API_PortMapping.html",
		after: func(_ *Strict, c *call) {
			for _, container := range containers(c) {
				for _, port := range container.objects("portMappings") {
					port.fill(fields{"hostPort": port["containerPort"], "protocol": "tcp"})
				}
			}
		},
	},
	{
		Name:     "task definition: Fargate's sizes",
		Sentence: "On Fargate, cpu and memory are required, and only certain pairs exist.",
		Source:   ecsAPI + "API_RegisterTaskDefinition.html",
		before: func(_ *Strict, c *call) *refusal {
			if !c.is("ecs", "RegisterTaskDefinition") || !slices.Contains(c.in.texts("requiresCompatibilities"), "FARGATE") {
				return nil
			}
			if !slices.Contains(fargateMemory[c.in.text("cpu")], c.in.text("memory")) {
				return refuse("ClientException", "No Fargate configuration exists for given values: %s CPU, %s memory. See the Amazon ECS documentation for the valid values.", c.in.text("cpu"), c.in.text("memory"))
			}
			return nil
		},
	},
	{
		Name:     "task definition: Fargate's capabilities and devices",
		Sentence: "A task on Fargate can have no devices, and add no capability other than SYS_PTRACE.",
		Source:   ecsAPI + "API_KernelCapabilities.html",
		before: func(_ *Strict, c *call) *refusal {
			if !c.is("ecs", "RegisterTaskDefinition") || !slices.Contains(c.in.texts("requiresCompatibilities"), "FARGATE") {
				return nil
			}
			for _, container := range c.in.objects("containerDefinitions") {
				linux := container.object("linuxParameters")
				if len(linux.objects("devices")) > 0 {
					return refuse("ClientException", "Fargate compatible task definitions do not support devices")
				}
				for _, added := range linux.object("capabilities").texts("add") {
					if added != "SYS_PTRACE" {
						return refuse("ClientException", "Fargate compatible task definitions support only SYS_PTRACE to add to a container's capabilities, not %s", added)
					}
				}
			}
			return nil
		},
	},
	{
		Name:     "service: names are unique in a cluster",
		Sentence: "Two services of a cluster cannot have the same name.",
		Source:   ecsAPI + "API_CreateService.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ecs", "CreateService") {
				return nil
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			this := s.service(serviceKey(c.in, "serviceName"))
			if this.taken {
				return refuse("InvalidParameterException", "Creation of service was not idempotent.")
			}
			this.taken = true
			return nil
		},
	},
	{
		Name:     "service: not with an inactive task definition",
		Sentence: "No service can be created with, or updated to, a task definition that is INACTIVE.",
		Source:   ecsAPI + "API_DeregisterTaskDefinition.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ecs", "CreateService", "UpdateService") {
				return nil
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.inactive[c.in.text("taskDefinition")] {
				return refuse("ClientException", "TaskDefinition is inactive")
			}
			return nil
		},
		after: func(s *Strict, c *call) {
			if c.is("ecs", "DeregisterTaskDefinition") {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.inactive[c.out.object("taskDefinition").text("taskDefinitionArn")] = true
			}
		},
	},
	{
		Name:     "service: only capacity providers of its cluster",
		Sentence: "A strategy can name only capacity providers that are associated with the cluster.",
		Source:   ecsAPI + "API_CapacityProviderStrategyItem.html",
		before: func(s *Strict, c *call) *refusal {
			strategy := c.in.objects("capacityProviderStrategy")
			if !c.is("ecs", "CreateService", "UpdateService") || len(strategy) == 0 {
				return nil
			}
			var out fields
			err := s.ask(c, "ecs", "AmazonEC2ContainerServiceV20141113.DescribeClusters", nil, fields{"clusters": []string{c.in.text("cluster")}}, &out)
			if err != nil || len(out.objects("clusters")) != 1 {
				return refuse("ClusterNotFoundException", "Cluster not found.")
			}
			associated := out.objects("clusters")[0].texts("capacityProviders")
			for _, item := range strategy {
				if name := item.text("capacityProvider"); !slices.Contains(associated, name) {
					return refuse("InvalidParameterException", "The specified capacity provider '%s' was not found. Specify a valid name or ARN and try again.", name)
				}
			}
			return nil
		},
	},
	{
		Name:     "service: a failed deployment is rolled back",
		Sentence: "With rollback, ECS returns a service whose deployment failed to its last completed deployment.",
		Source:   ecsAPI + "API_DeploymentCircuitBreaker.html",
		// See FailDeployments.
	},
}

// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html
var fargateMemory = map[string][]string{
	"256":   {"512", "1024", "2048"},
	"512":   mib(1, 4, 1),
	"1024":  mib(2, 8, 1),
	"2048":  mib(4, 16, 1),
	"4096":  mib(8, 30, 1),
	"8192":  mib(16, 60, 4),
	"16384": mib(32, 120, 8),
}

// containers returns the containers of a registered or described task definition.
func containers(c *call) []fields {
	if !c.is("ecs", "RegisterTaskDefinition", "DescribeTaskDefinition") {
		return nil
	}
	return c.out.object("taskDefinition").objects("containerDefinitions")
}

// service holds the state of a service that moto does not store.
type service struct {
	taken     bool
	arguments fields
	failing   bool   // its deployments fail
	previous  string // task definition of the last successful deployment
}

// stored lists the arguments of CreateService and UpdateService that DescribeServices
// returns in AWS but not in moto.
var stored = []string{
	"availabilityZoneRebalancing", "capacityProviderStrategy", "deploymentConfiguration", "enableECSManagedTags", "enableExecuteCommand",
	"networkConfiguration", "platformVersion", "propagateTags", "serviceRegistries",
}

// FailDeployments makes further deployments of a service fail. Its circuit breaker, if it
// has one, rolls back to the last successful one.
func (s *Strict) FailDeployments(clusterARN, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.service(clusterARN + " " + name).failing = true
}

// service returns the entry of a service. The caller holds s.mu.
func (s *Strict) service(key string) *service {
	if s.services[key] == nil {
		s.services[key] = &service{}
	}
	return s.services[key]
}

// storeService stores the arguments of services, adds them to answers, and completes or
// fails their deployments.
func storeService(s *Strict, c *call) {
	if !c.is("ecs", "CreateService", "UpdateService", "DeleteService", "DescribeServices") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	described := c.out.objects("services")
	switch c.action {
	case "CreateService", "UpdateService":
		name := map[string]string{"CreateService": "serviceName", "UpdateService": "service"}[c.action]
		this := s.service(serviceKey(c.in, name))
		if this.arguments == nil {
			this.arguments = fields{
				"deploymentConfiguration":     map[string]any{"maximumPercent": 200, "minimumHealthyPercent": 100},
				"availabilityZoneRebalancing": "ENABLED",
			}
		}
		for _, argument := range stored {
			given := c.in[argument]
			if part, ok := given.(map[string]any); ok && argument == "deploymentConfiguration" {
				maps.Copy(this.arguments.object(argument), part)
			} else if given != nil {
				this.arguments[argument] = given
			}
		}
		described = []fields{c.out.object("service")}
	case "DeleteService":
		delete(s.services, serviceKey(c.in, "service"))
		return
	}
	for _, d := range described {
		if d.text("status") != "ACTIVE" {
			continue
		}
		this := s.service(d.text("clusterArn") + " " + d.text("serviceName"))
		maps.Copy(d, this.arguments)
		if len(d.objects("capacityProviderStrategy")) > 0 {
			delete(d, "launchType")
		}
		this.deploy(s, d)
	}
}

// deploy sets the fields of d to their values after the deployment. The caller holds s.mu.
func (v *service) deploy(s *Strict, d fields) {
	state, running := "COMPLETED", d["desiredCount"]
	breaker := v.arguments.object("deploymentConfiguration").object("deploymentCircuitBreaker")
	rollback, _ := breaker["rollback"].(bool)
	switch {
	case !v.failing || d["taskDefinition"] == v.previous:
		v.previous = d.text("taskDefinition")
	case v.previous != "" && rollback && !s.inactive[v.previous]:
		d["taskDefinition"] = v.previous
	default:
		state, running = "FAILED", 0
	}
	d["runningCount"], d["pendingCount"] = running, 0
	for _, deployment := range d.objects("deployments") {
		deployment["taskDefinition"] = d["taskDefinition"]
		deployment["desiredCount"], deployment["runningCount"], deployment["pendingCount"] = d["desiredCount"], running, 0
		deployment["rolloutState"] = state
	}
}

// serviceKey returns the key of a service in Strict.services: the cluster's ARN and the
// service's name. in has either the name or the ARN of the service.
func serviceKey(in fields, name string) string {
	service := in.text(name)
	return in.text("cluster") + " " + service[strings.LastIndex(service, "/")+1:]
}

// mib returns the sizes between two numbers of GiB, in MiB.
func mib(from, to, step int) (all []string) {
	for gib := from; gib <= to; gib += step {
		all = append(all, strconv.Itoa(gib*1024))
	}
	return all
}
