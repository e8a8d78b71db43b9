# Names that follow from the VPC's Name tag, and names that stay.

mock_provider "aws" {
  mock_data "aws_vpc" {
    defaults = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sandbox" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/router" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:123456789012:task-definition/router:1" }
  }
}

variables {
  iam_wait              = 0
  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0a", "subnet-0b"]
  create_security_group = true
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/main"
  auth_secret_arn       = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
  image                 = "registry.example.com/subnetrouter@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

run "tag_valid" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sandbox_1-eu" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "sandbox_1-eu-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_slash" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "NetworkStack/Vpc" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "NetworkStack-Vpc-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_space" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "Main VPC" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "Main-VPC-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_dot" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "prod.eu" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "prod-eu-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_punctuation_at_the_ends" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "/prod (main)/" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "prod-main-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_prefix_of_security_groups" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sg-prod" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "sg-prod-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_other_script" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "生产" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_other_script_in_part" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "生产-1" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_only_punctuation" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "..." }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_empty" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_longest" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "a-vpc-with-a-name-of-35-characters1" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "a-vpc-with-a-name-of-35-characters1-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "tag_too_long" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "a-vpc-with-a-name-of-more-than-35-characters" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "no_tag" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = {}, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "vpc-0123456789abcdef0-tailscale" && aws_ecs_service.tailscale[0].name == output.name
    error_message = "The name is ${output.name}, and that of the service ${aws_ecs_service.tailscale[0].name}."
  }

  assert {
    condition     = alltrue([for n in [aws_iam_role.ecs_task_tailscale[0].name, aws_iam_role.ecs_task_execution_tailscale[0].name, aws_ecs_task_definition.tailscale[0].family] : can(regex("^[A-Za-z0-9_-]{1,64}$", n))])
    error_message = "IAM or ECS would refuse a name."
  }

  assert {
    condition     = !startswith(aws_security_group.router[0].name_prefix, "sg-") && can(regex("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$", output.hostname))
    error_message = "The security group's prefix is ${aws_security_group.router[0].name_prefix}, the hostname ${output.hostname}."
  }
}

run "name_without_letters" {
  command = plan

  variables {
    name = "_"
  }

  assert {
    condition     = output.hostname == "tailscale"
    error_message = "The hostname is ${output.hostname}."
  }
}

run "before_a_new_tag" {
  assert {
    condition     = output.name == "sandbox-tailscale"
    error_message = "The name is ${output.name}."
  }
}

run "after_a_new_tag" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "renamed" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  assert {
    condition     = output.name == "sandbox-tailscale" && aws_iam_role.ecs_task_tailscale[0].name == "ecs-task-sandbox-tailscale" && aws_cloudwatch_log_group.tailscale[0].name == "/ecs/sandbox-tailscale"
    error_message = "A VPC that is renamed must not replace what is named after it: the name is now ${output.name}."
  }
}

run "another_name" {
  variables {
    name = "edge"
  }

  assert {
    condition     = output.service_name == "sandbox-tailscale" && output.name == "edge"
    error_message = "A service keeps the name that it was created with, which is now ${output.service_name}."
  }
}

# The identities are stored under the name of the service.
run "another_name_with_identities" {
  command = plan

  variables {
    name  = "edge"
    state = "dynamodb"
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "another_name_of_the_same_service" {
  command = plan

  variables {
    name                 = "edge"
    service_name         = "sandbox-tailscale"
    state                = "dynamodb"
    create_state_kms_key = false
    state_kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  assert {
    condition     = endswith([for s in jsondecode(output.task_role_policy_json).Statement : s.Resource[0] if s.Sid == "SeeService"][0], "/sandbox-tailscale")
    error_message = "The router may describe the service under the name that it keeps."
  }
}
