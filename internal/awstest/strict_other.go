package awstest

import "strings"

var otherRules = []Rule{
	{
		Name:     "file system: one mount target per zone",
		Sentence: "A file system can have one mount target in each availability zone, all in one VPC.",
		Source:   "https://docs.aws.amazon.com/efs/latest/ug/API_CreateMountTarget.html",
		// moto does the same.
	},
	{
		Name:     "secret: its key is an ID or an alias",
		Sentence: "DescribeSecret returns the key of a secret in the form in which it was set: an ID, the ARN of an alias, or the ARN of a key.",
		Source:   "https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DescribeSecret.html",
		after: func(_ *Strict, c *call) {
			if !c.is("secretsmanager", "DescribeSecret") {
				return
			}
			if key := c.out.text("KmsKeyId"); strings.HasPrefix(key, "alias/") {
				arn := strings.Split(c.out.text("ARN"), ":")
				c.out["KmsKeyId"] = strings.Join([]string{arn[0], arn[1], "kms", arn[3], arn[4], key}, ":")
			}
		},
	},
	{
		Name:     "Cloud Map: the failure threshold is 1",
		Sentence: "The failure threshold is no longer supported, and is always 1.",
		Source:   "https://docs.aws.amazon.com/cloud-map/latest/api/API_HealthCheckCustomConfig.html",
		after: func(_ *Strict, c *call) {
			if !c.is("servicediscovery", "CreateService", "GetService") {
				return
			}
			if custom := c.out.object("Service").object("HealthCheckCustomConfig"); custom != nil {
				custom["FailureThreshold"] = 1
			}
		},
	},
	{
		Name:     "Cloud Map: a service with instances is not deleted",
		Sentence: "Deleting a service fails while instances are registered in it.",
		Source:   "https://docs.aws.amazon.com/cloud-map/latest/api/API_DeleteService.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("servicediscovery", "DeleteService") {
				return nil
			}
			var out fields
			err := s.ask(c, "servicediscovery", "Route53AutoNaming_v20170314.ListInstances", nil, fields{"ServiceId": c.in.text("Id")}, &out)
			if err == nil && len(out.objects("Instances")) > 0 {
				return refuse("ResourceInUse", "Service contains registered instances; delete the instances before deleting the service")
			}
			return nil
		},
		// ECS registers the tasks of a service, and deregisters them some time after its deletion.
		after: func(s *Strict, c *call) {
			if !c.is("ecs", "CreateService") {
				return
			}
			for _, registry := range c.in.objects("serviceRegistries") {
				arn := registry.text("registryArn")
				_ = s.ask(c, "servicediscovery", "Route53AutoNaming_v20170314.RegisterInstance", nil, fields{
					"ServiceId": arn[strings.LastIndex(arn, "/")+1:], "InstanceId": "task-1", "Attributes": fields{"AWS_INSTANCE_IPV4": "10.0.1.10"},
				}, &fields{})
			}
		},
	},
}

// describeKey marks the keys of AWS's aliases as managed by AWS.
func describeKey(_ *Strict, c *call) {
	if c.is("kms", "DescribeKey") && strings.Contains(c.in.text("KeyId"), "alias/aws/") {
		c.out.object("KeyMetadata")["KeyManager"] = "AWS"
	}
}
