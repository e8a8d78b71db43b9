# What moto_server does not return, and what follows from variables alone.

mock_provider "aws" {
  mock_data "aws_vpc" {
    defaults = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sandbox" }, cidr_block_associations = [], ipv6_cidr_block = "" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0a"] }
  }
}

variables {
  vpc_id             = "vpc-0123456789abcdef0"
  subnet_ids         = ["subnet-0a", "subnet-0b"]
  security_group_ids = ["sg-0a"]
  cluster_arn        = "arn:aws:ecs:eu-west-1:123456789012:cluster/main"
  auth_secret_arn    = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
  image              = "registry.example.com/subnetrouter@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

run "defaults" {
  command = plan

  assert {
    condition     = aws_ecs_service.tailscale.desired_count == 1 && aws_ecs_service.tailscale.launch_type == "FARGATE"
    error_message = "By default there is one task on Fargate, as in Hardfin's module."
  }

  assert {
    condition     = aws_ecs_service.tailscale.deployment_minimum_healthy_percent == 100 && aws_ecs_service.tailscale.deployment_maximum_percent == 200
    error_message = "A new task must come before the old one goes: the hand-over needs both."
  }

  assert {
    condition     = aws_ecs_service.tailscale.deployment_circuit_breaker[0].enable && aws_ecs_service.tailscale.deployment_circuit_breaker[0].rollback
    error_message = "The circuit breaker with rollback must be on."
  }

  assert {
    condition     = var.drain_timeout == 60 && jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].stopTimeout >= 75 && jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].stopTimeout <= 120
    error_message = "ECS must give the router longer than it takes to drain, and Fargate allows 120 s."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].healthCheck.command == ["CMD", "/router", "healthcheck"]
    error_message = "The health check asks for liveness."
  }

  assert {
    condition     = length(aws_security_group.router) == 0 && length(aws_efs_file_system.state) == 0 && length(aws_vpc_endpoint.interface) == 0 && length(aws_cloudwatch_metric_alarm.running) == 0
    error_message = "What nobody asked for must not be created."
  }

  assert {
    condition     = aws_ecs_service.tailscale.propagate_tags == "SERVICE" && aws_ecs_service.tailscale.wait_for_steady_state
    error_message = "Tasks get the service's tags, and apply waits for them."
  }
}

run "two_tasks_that_must_be_ready_once" {
  command = plan

  variables {
    desired_count              = 2
    health_check               = "started"
    capacity_provider_strategy = [{ capacity_provider = "FARGATE", base = 1 }, { capacity_provider = "FARGATE_SPOT", weight = 3 }]
    create_security_group      = true
    udp_port                   = 42000
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].healthCheck.command == ["CMD", "/router", "healthcheck", "--started"]
    error_message = "health_check = started asks for the first readiness."
  }

  assert {
    condition     = length(aws_ecs_service.tailscale.capacity_provider_strategy) == 2
    error_message = "The capacity providers are those that were given."
  }

  assert {
    condition     = alltrue([for r in aws_vpc_security_group_ingress_rule.wireguard : r.from_port == 42000 && r.to_port == 42000 && r.ip_protocol == "udp"])
    error_message = "The security group lets in the port that the router listens on."
  }
}

run "state_on_a_file_system" {
  command = plan

  variables {
    state = "efs"
  }

  assert {
    condition     = aws_efs_file_system.state[0].encrypted && aws_efs_access_point.state[0].posix_user[0].uid == 65532
    error_message = "The file system is encrypted, and its access point not root's."
  }

  assert {
    condition     = aws_ecs_service.tailscale.deployment_minimum_healthy_percent == 0 && aws_ecs_service.tailscale.deployment_maximum_percent == 100
    error_message = "Two tasks must not share a node: the old one goes first."
  }
}

run "state_of_before" {
  command = plan

  variables {
    state              = "existing-efs"
    efs_file_system_id = "fs-0123abcd"
    efs_root_directory = "/"
    efs_owner_id       = 0
  }

  assert {
    condition     = length(aws_efs_file_system.state) == 0 && aws_efs_access_point.state[0].file_system_id == "fs-0123abcd" && aws_efs_access_point.state[0].root_directory[0].path == "/"
    error_message = "The file system that there is must be used, at the folder that was given."
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].environment : e.name => e.value }["ROUTER_STATE"] == jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].mountPoints[0].containerPath
    error_message = "The router must keep its state where the file system is mounted."
  }
}

run "another_partition" {
  command = plan

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn", dns_suffix = "amazonaws.com.cn" }
  }

  variables {
    auth_secret_arn         = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:tailscale-AbCdEf"
    auth_secret_kms_key_arn = "arn:aws-cn:kms:cn-north-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    image                   = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/subnetrouter:1"
    cluster_arn             = "arn:aws-cn:ecs:cn-north-1:123456789012:cluster/main"
    routes                  = ["pl-0123abcd"]
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.router.policy, "arn:aws:") && strcontains(aws_iam_role_policy.router.policy, "secretsmanager.cn-north-1.amazonaws.com.cn")
    error_message = "The task role's policy must name the partition's own ARNs."
  }
}

# What a module with the whole of its permissions is not: see also the test that
# compares the policy with `router plan --iam`.
run "isolated" {
  command = plan

  variables {
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
    enable_execute_command       = true
  }

  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["ecr.api", "ecr.dkr", "logs", "ec2", "secretsmanager", "ssmmessages"])
    error_message = "There is an endpoint for each service that the tasks call."
  }

  assert {
    condition     = length(jsondecode(aws_iam_role_policy.exec[0].policy).Statement[0].Action) == 4
    error_message = "ECS Exec takes four permissions."
  }

  assert {
    condition     = !jsondecode(aws_ecs_task_definition.tailscale.container_definitions)[0].readonlyRootFilesystem
    error_message = "ECS Exec needs a writable root."
  }
}
