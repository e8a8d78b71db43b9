# Every precondition: one thing is wrong in each run, and the base plans.

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

run "base" {
  command = plan
}

run "memory_of_fargate" {
  command = plan

  variables {
    memory = 16384
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "kernel_mode_on_fargate" {
  command = plan

  variables {
    kernel_mode = true
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "status_port_of_a_sidecar" {
  command = plan

  variables {
    sidecars = { app = { image = "app:1", ports = [8080, 9002] } }
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "proxy_port_of_a_sidecar" {
  command = plan

  variables {
    socks5_listen = ":1055"
    sidecars      = { app = { image = "app:1", ports = [1055] } }
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "public_address_on_ec2" {
  command = plan

  variables {
    launch_type      = "EC2"
    assign_public_ip = true
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "settings_that_the_router_refuses" {
  command = plan

  variables {
    routes = ["10.0.0.1/16"]
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "two_credentials" {
  command = plan

  variables {
    tailscale_client_id = "k1CNTRL"
    tailscale_audience  = "api.tailscale.com/k1CNTRL"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "no_credential" {
  command = plan

  variables {
    auth_secret_arn = null
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "client_without_audience" {
  command = plan

  variables {
    auth_secret_arn     = null
    tailscale_client_id = "k1CNTRL"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "json_key_without_secret" {
  command = plan

  variables {
    auth_secret_arn      = null
    tailscale_client_id  = "k1CNTRL"
    tailscale_audience   = "api.tailscale.com/k1CNTRL"
    auth_secret_json_key = "router"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "parameter_without_endpoint" {
  command = plan

  variables {
    auth_secret_arn              = "arn:aws:ssm:eu-west-1:123456789012:parameter/tailscale"
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "databases_without_endpoint" {
  command = plan

  variables {
    routes                       = ["rds:env=prod"]
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "two_images" {
  command = plan

  variables {
    tailscale_docker_repository = "tailscale"
    tailscale_docker_tag        = "1"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "no_image" {
  command = plan

  variables {
    image = null
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "tag_without_repository" {
  command = plan

  variables {
    tailscale_docker_tag = "1"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "own_role_without_an_arn" {
  command = plan

  variables {
    create_task_role = false
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "policies_for_a_role_of_the_callers" {
  command = plan

  variables {
    create_execution_role      = false
    execution_role_arn         = "arn:aws:iam::123456789012:role/ecs-start"
    execution_role_policy_arns = { guardduty = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "two_log_groups" {
  command = plan

  variables {
    log_group_name = "/network/routers"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "no_log_group" {
  command = plan

  variables {
    create_log_group = false
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "another_region" {
  command = plan

  variables {
    region = "eu-central-1"
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "stop_before_the_drain_ends" {
  command = plan

  variables {
    drain_timeout = 81
  }

  expect_failures = [aws_ecs_task_definition.tailscale]
}

run "two_vpcs" {
  command = plan

  variables {
    vpc = "sandbox"
  }

  expect_failures = [data.aws_vpc.this]
}

run "no_vpc" {
  command = plan

  variables {
    vpc_id = null
  }

  expect_failures = [data.aws_vpc.this]
}

run "two_clusters" {
  command = plan

  variables {
    target_ecs_cluster = "main"
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "no_cluster" {
  command = plan

  variables {
    cluster_arn = null
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "two_kinds_of_subnets" {
  command = plan

  variables {
    subnet_group = "private"
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "no_subnets" {
  command = plan

  variables {
    subnet_ids = null
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "no_security_group" {
  command = plan

  variables {
    security_group_ids = []
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "metrics_without_a_group" {
  command = plan

  variables {
    metrics_ingress_security_group_ids = ["sg-0b"]
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "ports_into_the_tailnet_without_a_group" {
  command = plan

  variables {
    egress               = ["0.0.0.0:5432=db:5432"]
    egress_ingress_rules = { Applications = { cidr = "10.0.9.0/24" } }
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "no_port_into_the_tailnet" {
  command = plan

  variables {
    create_security_group = true
    egress                = ["5432=db:5432", "[::1]:5433=db:5432", "127.0.0.2:5434=db:5432"]
    socks5_listen         = ":1055"
    http_proxy_listen     = "localhost:1056"
    egress_ingress_rules  = { Applications = { cidr = "10.0.9.0/24" } }
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "two_tasks_with_one_state" {
  command = plan

  variables {
    state         = "efs"
    desired_count = 2
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "two_tasks_with_one_parameter" {
  command = plan

  variables {
    state         = "ssm"
    desired_count = 2
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "two_tasks_during_an_import" {
  command = plan

  variables {
    state                      = "dynamodb"
    state_import_efs           = true
    deployment_maximum_percent = 200
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "autoscaling_with_one_state" {
  command = plan

  variables {
    state       = "ssm"
    autoscaling = { min = 1, max = 2 }
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "table_without_an_arn" {
  command = plan

  variables {
    state = "existing-dynamodb"
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "own_key_that_is_created_too" {
  command = plan

  variables {
    state             = "dynamodb"
    state_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "own_key_without_an_arn" {
  command = plan

  variables {
    state                = "dynamodb"
    create_state_kms_key = false
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "identities_without_a_table" {
  command = plan

  variables {
    state          = "ssm"
    identity_slots = 2
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "fewer_identities_than_tasks" {
  command = plan

  variables {
    state          = "dynamodb"
    desired_count  = 3
    identity_slots = 2
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "fewer_identities_than_tasks_of_autoscaling" {
  command = plan

  variables {
    state          = "dynamodb"
    autoscaling    = { min = 1, max = 5 }
    identity_slots = 4
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "import_without_a_table" {
  command = plan

  variables {
    state            = "ephemeral"
    state_import_efs = true
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "rebalancing_without_room" {
  command = plan

  variables {
    availability_zone_rebalancing      = true
    deployment_maximum_percent         = 100
    deployment_minimum_healthy_percent = 0
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "percents_that_leave_no_room" {
  command = plan

  variables {
    deployment_maximum_percent = 100
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "rollback_without_an_alarm" {
  command = plan

  variables {
    alarm_rollback = true
  }

  expect_failures = [aws_ecs_service.tailscale]
}

run "file_system_without_an_id" {
  command = plan

  variables {
    state = "existing-efs"
  }

  expect_failures = [aws_efs_access_point.state]
}

run "id_without_the_state" {
  command = plan

  variables {
    state              = "efs"
    efs_file_system_id = "fs-0123abcd"
  }

  expect_failures = [aws_efs_access_point.state]
}

run "empty_subnet_group" {
  command = plan

  override_data {
    target = data.aws_subnets.group[0]
    values = { ids = [] }
  }

  variables {
    subnet_ids   = null
    subnet_group = "private"
  }

  expect_failures = [data.aws_subnets.group]
}

run "endpoints_without_private_dns" {
  command = plan

  override_data {
    target = data.aws_vpc.this[0]
    values = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sandbox" }, enable_dns_support = true, enable_dns_hostnames = false, cidr_block_associations = [], ipv6_cidr_block = "" }
  }

  variables {
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
  }

  expect_failures = [aws_vpc_endpoint.interface]
}

run "endpoints_without_s3" {
  command = plan

  variables {
    create_vpc_endpoints = true
  }

  expect_failures = [check.s3_endpoint]
}

run "endpoints_without_dynamodb" {
  command = plan

  variables {
    state                = "dynamodb"
    create_vpc_endpoints = true
  }

  expect_failures = [check.s3_endpoint, check.dynamodb_endpoint]
}
