# What moto_server does not return, and what follows from variables alone.

mock_provider "aws" {
  mock_data "aws_vpc" {
    defaults = { id = "vpc-0123456789abcdef0", cidr_block = "10.0.0.0/16", tags = { Name = "sandbox" }, enable_dns_support = true, enable_dns_hostnames = true, cidr_block_associations = [], ipv6_cidr_block = "" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/router" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:123456789012:task-definition/router:1" }
  }
  mock_resource "aws_efs_file_system" {
    defaults = { id = "fs-0123abcd", arn = "arn:aws:elasticfilesystem:eu-west-1:123456789012:file-system/fs-0123abcd" }
  }
  mock_resource "aws_efs_access_point" {
    defaults = { id = "fsap-0123abcd", arn = "arn:aws:elasticfilesystem:eu-west-1:123456789012:access-point/fsap-0123abcd" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-west-1:123456789012:key/0123abcd" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  override_data {
    target = data.aws_subnet.task[0]
    values = { id = "subnet-0a", availability_zone = "eu-west-1a" }
  }
  override_data {
    target = data.aws_subnet.task[1]
    values = { id = "subnet-0b", availability_zone = "eu-west-1b" }
  }
  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0a"] }
  }
}

variables {
  iam_wait           = 0
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
    condition     = aws_ecs_service.tailscale[0].desired_count == 1 && aws_ecs_service.tailscale[0].launch_type == "FARGATE"
    error_message = "By default there is one task on Fargate, as in Hardfin's module."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_minimum_healthy_percent == 100 && aws_ecs_service.tailscale[0].deployment_maximum_percent == 200
    error_message = "A new task must come before the old one goes: the hand-over needs both."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_circuit_breaker[0].enable && aws_ecs_service.tailscale[0].deployment_circuit_breaker[0].rollback
    error_message = "The circuit breaker with rollback must be on."
  }

  assert {
    condition     = var.drain_timeout == 60 && jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].stopTimeout >= 75 && jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].stopTimeout <= 120
    error_message = "ECS must give the router longer than it takes to drain, and Fargate allows 120 s."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].healthCheck.command == ["CMD", "/router", "healthcheck"]
    error_message = "The health check asks for liveness."
  }

  assert {
    condition     = length(aws_security_group.router) == 0 && length(aws_efs_file_system.state) == 0 && length(aws_vpc_endpoint.interface) == 0 && length(aws_cloudwatch_metric_alarm.running) == 0
    error_message = "What nobody asked for must not be created."
  }

  assert {
    condition     = !aws_ecs_service.tailscale[0].force_new_deployment && aws_ecs_service.tailscale[0].availability_zone_rebalancing == "DISABLED" && aws_ecs_service.tailscale[0].timeouts.update == "40m"
    error_message = "What provider versions leave to different defaults must be set."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].propagate_tags == "SERVICE" && aws_ecs_service.tailscale[0].wait_for_steady_state
    error_message = "Tasks get the service's tags, and apply waits for them."
  }
}

run "two_tasks_that_must_be_ready_once" {
  command = plan

  variables {
    desired_count              = 2
    health_check               = "started"
    region                     = "eu-west-1"
    iam_wait                   = 15
    capacity_provider_strategy = [{ capacity_provider = "FARGATE", base = 1 }, { capacity_provider = "FARGATE_SPOT", weight = 3 }]
    create_security_group      = true
    udp_port                   = 42000
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].healthCheck.command == ["CMD", "/router", "healthcheck", "--started"]
    error_message = "health_check = started asks for the first readiness."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].force_new_deployment && aws_ecs_service.tailscale[0].availability_zone_rebalancing == "ENABLED"
    error_message = "Another strategy must not replace the service, and two tasks must not stay in one zone."
  }

  assert {
    condition     = length(terraform_data.roles_known) == 1
    error_message = "New roles need a wait before their first use."
  }

  assert {
    condition     = length(aws_ecs_service.tailscale[0].capacity_provider_strategy) == 2
    error_message = "The capacity providers are those that were given."
  }

  assert {
    condition     = alltrue([for r in aws_vpc_security_group_ingress_rule.wireguard : r.from_port == 42000 && r.to_port == 42000 && r.ip_protocol == "udp"])
    error_message = "The security group lets in the port that the router listens on."
  }
}

run "state_on_a_file_system" {
  variables {
    state = "efs"
  }

  assert {
    condition     = aws_efs_file_system.state[0].encrypted && aws_efs_access_point.state[0].posix_user[0].uid == 65532
    error_message = "The file system is encrypted, and its access point not root's."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_minimum_healthy_percent == 0 && aws_ecs_service.tailscale[0].deployment_maximum_percent == 100
    error_message = "Two tasks must not share a node: the old one goes first."
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.efs[0].policy, "ClientRootAccess") && aws_efs_file_system_policy.state[0].file_system_id != "" && aws_ecs_service.tailscale[0].availability_zone_rebalancing == "DISABLED"
    error_message = "The router is not root on its file system, which has a policy of its own."
  }

  assert {
    condition     = { for zone, target in aws_efs_mount_target.state : zone => target.subnet_id } == { a = "subnet-0a", b = "subnet-0b" }
    error_message = "There is one mount target in each zone."
  }
}

run "mount_targets_in_subnets_of_the_same_apply" {
  command = plan

  variables {
    state                       = "efs"
    efs_mount_target_subnet_ids = { first = "subnet-0c" }
  }

  assert {
    condition     = keys(aws_efs_mount_target.state) == ["first"] && length(data.aws_subnet.task) == 0
    error_message = "Keys that are given need no look-up."
  }
}

run "roles" {
  command = plan

  variables {
    image                      = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/ghcr/subnetrouter:1"
    ecr_pull_through_cache     = true
    execution_role_policy_arns = { guardduty = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" }
    execution_role_statements = [
      { Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = ["*"] },
      { Sid = "More", Effect = "Allow", Action = "kms:Decrypt", Resource = "*", Condition = { StringLike = { "kms:ViaService" = "secretsmanager.*" } } },
    ]
    task_role_policy_arns = { read = "arn:aws:iam::aws:policy/ReadOnlyAccess" }
  }

  assert {
    condition = (
      aws_iam_role_policy_attachment.execution["guardduty"].role == "ecs-task-execution-sandbox-tailscale" &&
      aws_iam_role_policy_attachment.task["read"].role == "ecs-task-sandbox-tailscale"
    )
    error_message = "Further policies are attached to the roles."
  }

  assert {
    condition     = toset(flatten([for r in [aws_iam_role.ecs_task_tailscale[0], aws_iam_role.ecs_task_execution_tailscale[0]] : [for c in values(jsondecode(r.assume_role_policy).Statement[0].Condition) : keys(c)]])) == toset(["aws:SourceAccount", "aws:SourceArn"])
    error_message = "ECS may assume the roles for tasks of this account only."
  }
}

# Every kind of resource and look-up that the module has.
run "nothing" {
  command = plan

  variables {
    create                       = false
    vpc_id                       = null
    vpc                          = "sandbox"
    subnet_ids                   = null
    subnet_group                 = "private"
    cluster_arn                  = null
    target_ecs_cluster           = "main"
    auth_secret_arn              = null
    tailscale_auth_key_secret    = "tailscale"
    image                        = null
    tailscale_docker_repository  = "tailscale"
    tailscale_docker_tag         = "1"
    state                        = "efs"
    create_security_group        = true
    create_alarms                = true
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
    enable_execute_command       = true
    metrics_ingress_cidrs        = ["10.0.9.0/24"]
    service_discovery            = { namespace_id = "ns-0a" }
    autoscaling                  = { min = 1, max = 2 }
  }

  assert {
    condition = alltrue([for o in [
      output.task_role_arn, output.execution_role_arn, output.service_arn, output.task_definition_arn, output.security_group_id, output.log_group_arn,
      output.efs_file_system_id, output.efs_access_point_id, output.service_discovery_service_arn, output.vpc_id, output.image, output.autoapprovers_json, output.split_dns,
    ] : o == null])
    error_message = "Without create, the outputs of resources are null."
  }
}

# The same look-ups fail with create: they need names that no mock has.
run "own_roles_and_log_group" {
  command = plan

  variables {
    create_task_role       = false
    task_role_arn          = "arn:aws:iam::123456789012:role/network/router"
    create_execution_role  = false
    execution_role_arn     = "arn:aws:iam::123456789012:role/ecs-start"
    create_log_group       = false
    log_group_name         = "/network/routers"
    create_alarms          = true
    enable_execute_command = true
    state                  = "existing-efs"
    efs_file_system_id     = "fs-0123abcd"
  }

  assert {
    condition = 0 == sum([for r in [
      aws_iam_role.ecs_task_tailscale, aws_iam_role.ecs_task_execution_tailscale, aws_iam_role_policy.router, aws_iam_role_policy.exec, aws_iam_role_policy.efs,
      aws_iam_role_policy.execution, aws_iam_role_policy_attachment.task, aws_iam_role_policy_attachment.execution, aws_cloudwatch_log_group.tailscale, terraform_data.roles_known,
    ] : length(r)])
    error_message = "With roles and a log group of the caller's, there are none of the module's."
  }

  assert {
    condition     = aws_ecs_task_definition.tailscale[0].task_role_arn == "arn:aws:iam::123456789012:role/network/router" && aws_ecs_task_definition.tailscale[0].execution_role_arn == "arn:aws:iam::123456789012:role/ecs-start"
    error_message = "The task has the given roles."
  }

  assert {
    condition     = output.tailscale_ecs_task_role_name == "router" && output.execution_role_name == "ecs-start"
    error_message = "The names of the given roles are the last parts of their ARNs."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].logConfiguration.options.awslogs-group == "/network/routers" && aws_cloudwatch_log_metric_filter.not_ready[0].log_group_name == "/network/routers"
    error_message = "The router logs into the given group, which the alarm reads."
  }

  assert {
    condition     = jsondecode(output.execution_role_policy_json).Statement[0].Resource == ["arn:aws:logs:eu-west-1:123456789012:log-group:/network/routers:*"]
    error_message = "The policy for the caller's execution role is about the given group: ${output.execution_role_policy_json}"
  }
}

run "policy_for_a_role_of_the_callers" {
  variables {
    create_task_role       = false
    task_role_arn          = "arn:aws:iam::123456789012:role/router"
    enable_execute_command = true
    state                  = "efs"
  }

  assert {
    condition     = join(" ", [for s in jsondecode(output.task_role_policy_json).Statement : s.Sid]) == "ReadCredential ReadNetwork ECSExec MountState"
    error_message = "The policy for the caller's task role has everything that the router needs: ${output.task_role_policy_json}"
  }

  assert {
    condition     = jsondecode(aws_efs_file_system_policy.state[0].policy).Statement[0].Principal.AWS == "arn:aws:iam::123456789012:role/router"
    error_message = "The file system allows the caller's role."
  }
}

run "state_of_before" {
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
    condition     = { for e in jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].environment : e.name => e.value }["ROUTER_STATE"] == jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].mountPoints[0].containerPath
    error_message = "The router must keep its state where the file system is mounted."
  }

  assert {
    condition     = contains(jsondecode(aws_iam_role_policy.efs[0].policy).Statement[0].Action, "elasticfilesystem:ClientRootAccess")
    error_message = "An access point that enforces root needs the right to be root."
  }
}

run "kernel_mode" {
  command = plan

  variables {
    launch_type = "EC2"
    kernel_mode = true
    cpu         = 512
    memory      = 512
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].launch_type == "EC2" && aws_ecs_task_definition.tailscale[0].requires_compatibilities == toset(["EC2"]) && aws_ecs_task_definition.tailscale[0].network_mode == "awsvpc"
    error_message = "The tasks run on instances, each with an interface of its own."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].user == "0:0" && join(" ", jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].linuxParameters.capabilities.add) == "NET_ADMIN NET_RAW"
    error_message = "Capabilities count for root only."
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].linuxParameters.devices[0].hostPath == "/dev/net/tun" && output.environment["ROUTER_MODE"] == "kernel"
    error_message = "Kernel mode needs the device, and must not fall back in silence."
  }
}

run "further_inputs" {
  command = plan

  variables {
    create_security_group             = true
    metrics_ingress_cidrs             = ["10.0.9.0/24", "fd00::/64"]
    metrics_ingress_rules             = { Prometheus = { security_group_id = "sg-0b" }, VPN = { cidr = "10.9.0.0/16" }, Office = { prefix_list_id = "pl-0123abcd" } }
    egress_rules                      = { vpc = { cidr = "10.0.0.0/16" }, control = { cidr = "0.0.0.0/0", protocol = "tcp", from_port = 443 } }
    keepalive                         = "90s,5432=10m"
    target_keepalive                  = "30s"
    secrets                           = { TOKEN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:token-AbCdEf:key::", OTHER = "arn:aws:ssm:eu-west-1:123456789012:parameter/other" }
    repository_credentials_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ghcr-AbCdEf"
    extra_containers                  = [{ name = "log_router", image = "fluent-bit:1", essential = true, firelensConfiguration = { type = "fluentbit" } }]
    serve                             = ["443/https=localhost:8080", "*=10.0.3.4"]
    egress                            = ["5433=db:5432", "0.0.0.0:5432=db:5432", "[::]:053/udp=ns:53"]
    socks5_listen                     = "0.0.0.0:1080"
    http_proxy_listen                 = "0.0.0.0:1080"
    egress_ingress_rules              = { Applications = { security_group_id = "sg-0b" }, Office = { cidr = "fd00::/64" } }
    sidecars = {
      app  = { image = "app:1", environment = { PROXY = "socks5h://localhost:1055" }, secrets = { KEY = "arn:aws:ssm:eu-west-1:123456789012:parameter/key" }, ports = [8080], health_check = ["CMD", "true"], health_check_start_period = 120, stop_timeout = 120 }
      side = { image = "side:1", essential = false, after_router = false }
    }
    create_log_group  = false
    log_configuration = { log_driver = "awsfirelens", options = { Name = "cloudwatch" } }
  }

  assert {
    condition     = join(" ", [for c in jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions) : c.name]) == "tailscale app side log_router"
    error_message = "The task has the router, the sidecars and the extra containers."
  }

  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[1].dependsOn == [{ containerName = "tailscale", condition = "HEALTHY" }]
      && jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[1].essential
      && !contains(keys(jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[2]), "dependsOn")
      && jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[1].healthCheck == { command = ["CMD", "true"], interval = 30, timeout = 5, retries = 3, startPeriod = 120 }
      && jsondecode(output.container_definition) == jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0]
    )
    error_message = "A sidecar starts after the router unless it asks not to, has time to start, and container_definition is the router's container."
  }

  assert {
    condition     = { for e in jsondecode(output.container_definition).environment : e.name => e.value }["ROUTER_SERVE"] == "443/https=localhost:8080,*=10.0.3.4"
    error_message = "The router serves its ports."
  }

  assert {
    condition     = { for key, r in aws_vpc_security_group_ingress_rule.metrics_cidr : key => coalesce(r.cidr_ipv4, r.cidr_ipv6) } == { "10.0.9.0/24" = "10.0.9.0/24", "fd00::/64" = "fd00::/64" }
    error_message = "Each CIDR has a rule of its own, whatever the order."
  }

  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.metrics_given["Prometheus"].referenced_security_group_id == "sg-0b" &&
      aws_vpc_security_group_ingress_rule.metrics_given["VPN"].cidr_ipv4 == "10.9.0.0/16" &&
      aws_vpc_security_group_ingress_rule.metrics_given["Office"].prefix_list_id == "pl-0123abcd"
    )
    error_message = "The rules have the given sources."
  }

  assert {
    condition = (
      join(" ", keys(aws_vpc_security_group_ingress_rule.egress)) == "Applications tcp/1080 Applications tcp/5432 Applications udp/1080 Applications udp/53 Office tcp/1080 Office tcp/5432 Office udp/1080 Office udp/53" &&
      aws_vpc_security_group_ingress_rule.egress["Applications udp/53"].referenced_security_group_id == "sg-0b" &&
      aws_vpc_security_group_ingress_rule.egress["Applications udp/53"].to_port == 53 &&
      aws_vpc_security_group_ingress_rule.egress["Office tcp/5432"].cidr_ipv6 == "fd00::/64"
    )
    error_message = "The ports into the tailnet are open for their sources, other than those of the loopback address."
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.all) == 0 && aws_vpc_security_group_egress_rule.given["control"].to_port == 443 && aws_vpc_security_group_egress_rule.given["vpc"].ip_protocol == "-1"
    error_message = "Rules that are given take the place of everywhere."
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.execution[0].policy, "logs:") && length(aws_cloudwatch_log_group.tailscale) == 0
    error_message = "Another log driver needs neither a group nor a permission."
  }

  assert {
    condition     = output.environment["ROUTER_KEEPALIVE"] == "90s,5432=10m" && output.environment["ROUTER_TARGET_KEEPALIVE"] == "30s"
    error_message = "The keepalives are the router's."
  }

  assert {
    condition = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].logConfiguration.logDriver == "awsfirelens" && (
      join(" ", [for s in jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].secrets : s.name]) == "OTHER TOKEN"
    )
    error_message = "Log driver and secrets are those that were given."
  }
}

run "named_secret_without_a_look_up_of_its_key" {
  command = plan

  override_data {
    target = data.aws_secretsmanager_secret.auth[0]
    values = { arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf", kms_key_id = "alias/tailscale" }
  }

  variables {
    auth_secret_arn             = null
    tailscale_auth_key_secret   = "tailscale"
    look_up_auth_secret_kms_key = false
    auth_secret_kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  assert {
    condition     = length(data.aws_kms_key.auth) == 0
    error_message = "Who may not call kms:DescribeKey can do without."
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.router[0].policy).Statement : s.Resource if s.Sid == "DecryptCredential"] == [["arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"]]
    error_message = "The task role may decrypt with the key that is given."
  }
}

run "parameter" {
  command = plan

  variables {
    auth_secret_arn         = "arn:aws:ssm:eu-west-1:123456789012:parameter/tailscale/auth-key:3"
    auth_secret_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
    vpc_endpoint_services        = ["ecr.api", "ecr.dkr", "logs", "ec2", "ssm"]
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.router[0].policy).Statement : s.Resource if s.Action == ["ssm:GetParameter"]] == [["arn:aws:ssm:eu-west-1:123456789012:parameter/tailscale/auth-key"]]
    error_message = "The task role may read the parameter, in all versions."
  }

  assert {
    condition     = strcontains(aws_iam_role_policy.router[0].policy, "ssm.eu-west-1.amazonaws.com") && !strcontains(aws_iam_role_policy.router[0].policy, "secretsmanager")
    error_message = "The task role may decrypt only the parameter."
  }
}

run "another_partition" {
  command = plan

  override_data {
    target = data.aws_partition.current[0]
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
    condition     = !strcontains(aws_iam_role_policy.router[0].policy, "arn:aws:") && strcontains(aws_iam_role_policy.router[0].policy, "secretsmanager.cn-north-1.amazonaws.com.cn")
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
    condition     = !jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].readonlyRootFilesystem
    error_message = "ECS Exec needs a writable root."
  }
}

run "one_endpoint_per_zone" {
  command = plan

  override_data {
    target = data.aws_subnet.task[1]
    values = { id = "subnet-0b", availability_zone = "eu-west-1a" }
  }

  variables {
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
    vpc_endpoint_services        = ["logs", "sts"]
  }

  assert {
    condition     = alltrue([for e in aws_vpc_endpoint.interface : e.subnet_ids == toset(["subnet-0a"])]) && toset(keys(aws_vpc_endpoint.interface)) == toset(["logs", "sts"])
    error_message = "An endpoint takes one subnet of a zone."
  }
}

run "identities_in_a_table" {
  variables {
    state         = "dynamodb"
    desired_count = 2
  }

  assert {
    condition = (
      aws_dynamodb_table.state[0].hash_key == "service" && aws_dynamodb_table.state[0].range_key == "slot" &&
      { for a in aws_dynamodb_table.state[0].attribute : a.name => a.type } == { service = "S", slot = "N" }
    )
    error_message = "The table has the key that the router uses."
  }

  assert {
    condition = (
      aws_dynamodb_table.state[0].billing_mode == "PAY_PER_REQUEST" && aws_dynamodb_table.state[0].deletion_protection_enabled &&
      aws_dynamodb_table.state[0].point_in_time_recovery[0].enabled && aws_dynamodb_table.state[0].server_side_encryption[0].enabled
    )
    error_message = "The table is protected, encrypted and can be restored."
  }

  assert {
    condition     = aws_kms_key.state[0].enable_key_rotation && jsondecode(aws_kms_key.state[0].policy).Statement[1].Condition.ArnEquals["aws:PrincipalArn"] == output.task_role_arn
    error_message = "The key is rotated, and only the routers can use it."
  }

  assert {
    condition     = output.environment["ROUTER_STATE"] == "dynamodb:sandbox-tailscale-identities?slots=4&kms=arn:aws:kms:eu-west-1:123456789012:key/0123abcd" && output.identity_slots == 4
    error_message = "There is an identity for each task of a deployment: ${output.environment["ROUTER_STATE"]}"
  }

  assert {
    condition = { for s in jsondecode(aws_iam_role_policy.router[0].policy).Statement : s.Sid => [s.Action, s.Resource] if contains(["KeepIdentities", "EncryptState", "SeeTasks", "SeeService"], s.Sid) } == {
      KeepIdentities = [["dynamodb:Query", "dynamodb:UpdateItem"], ["arn:aws:dynamodb:eu-west-1:123456789012:table/sandbox-tailscale-identities"]]
      EncryptState   = [["kms:GenerateDataKey", "kms:Decrypt"], ["arn:aws:kms:eu-west-1:123456789012:key/0123abcd"]]
      SeeTasks       = [["ecs:DescribeTasks"], ["arn:aws:ecs:eu-west-1:123456789012:task/main/*"]]
      SeeService     = [["ecs:DescribeServices"], ["arn:aws:ecs:eu-west-1:123456789012:service/main/sandbox-tailscale"]]
    }
    error_message = "The task role may keep identities, and nothing else: ${aws_iam_role_policy.router[0].policy}"
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_minimum_healthy_percent == 100 && aws_ecs_service.tailscale[0].deployment_maximum_percent == 200 && length(aws_efs_access_point.state) == 0
    error_message = "New tasks start before the old ones stop, each with an identity of its own."
  }
}

run "identities_in_a_given_table" {
  command = plan

  variables {
    state                      = "existing-dynamodb"
    dynamodb_table_arn         = "arn:aws:dynamodb:eu-west-1:123456789012:table/routers"
    create_state_kms_key       = false
    state_kms_key_arn          = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    deployment_maximum_percent = 150
    autoscaling                = { min = 2, max = 5 }
  }

  assert {
    condition     = length(aws_dynamodb_table.state) == 0 && length(aws_kms_key.state) == 0
    error_message = "Table and key are the given ones."
  }

  assert {
    condition     = output.environment["ROUTER_STATE"] == "dynamodb:arn:aws:dynamodb:eu-west-1:123456789012:table/routers?slots=7&kms=arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    error_message = "There are 150 percent of the largest number of tasks, rounded down: ${output.environment["ROUTER_STATE"]}"
  }
}

run "identities_that_are_counted" {
  command = plan

  variables {
    state          = "dynamodb"
    desired_count  = 2
    identity_slots = 3
  }

  assert {
    condition     = strcontains(output.environment["ROUTER_STATE"], "?slots=3&") && output.identity_slots == 3
    error_message = "The number of identities is the given one."
  }
}

run "an_identity_in_a_parameter" {
  command = plan

  variables {
    state = "ssm"
  }

  assert {
    condition     = output.environment["ROUTER_STATE"] == "arn:aws:ssm:eu-west-1:123456789012:parameter/subnetrouter/sandbox-tailscale"
    error_message = "The parameter is named after the service: ${output.environment["ROUTER_STATE"]}"
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.router[0].policy).Statement : [s.Action, s.Resource] if !contains(["ReadCredential", "ReadNetwork"], s.Sid)] == [[["ssm:GetParameter", "ssm:PutParameter"], ["arn:aws:ssm:eu-west-1:123456789012:parameter/subnetrouter/sandbox-tailscale"]]]
    error_message = "The AWS managed key needs no permission: ${aws_iam_role_policy.router[0].policy}"
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_minimum_healthy_percent == 0 && aws_ecs_service.tailscale[0].deployment_maximum_percent == 100
    error_message = "Two tasks must not share a node: the old one stops first."
  }
}

run "a_parameter_with_a_key" {
  command = plan

  variables {
    state              = "ssm"
    ssm_parameter_name = "/network/router"
    state_kms_key_arn  = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  assert {
    condition     = output.environment["ROUTER_STATE"] == "arn:aws:ssm:eu-west-1:123456789012:parameter/network/router?kms=arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    error_message = "The parameter has the given name and key: ${output.environment["ROUTER_STATE"]}"
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.router[0].policy).Statement : s.Action if s.Sid == "EncryptState"] == [["kms:GenerateDataKey", "kms:Decrypt", "kms:Encrypt"]]
    error_message = "A key of one's own needs permissions: ${aws_iam_role_policy.router[0].policy}"
  }
}

run "an_identity_from_a_file_system" {
  variables {
    state            = "dynamodb"
    state_import_efs = true
  }

  assert {
    condition     = length(aws_efs_file_system.state) == 1 && length(aws_efs_mount_target.state) == 2 && length(aws_efs_file_system_policy.state) == 1
    error_message = "The file system stays during the import."
  }

  assert {
    condition     = output.environment["ROUTER_STATE_IMPORT"] == "/var/lib/tailscale" && startswith(output.environment["ROUTER_STATE"], "dynamodb:sandbox-tailscale-identities?slots=1&")
    error_message = "The router imports from the old folder: ${jsonencode(output.environment)}"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].mountPoints[0].readOnly && jsondecode(aws_ecs_task_definition.tailscale[0].container_definitions)[0].mountPoints[0].containerPath == "/var/lib/tailscale"
    error_message = "The file system is mounted read-only, where it was."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].deployment_minimum_healthy_percent == 0 && aws_ecs_service.tailscale[0].deployment_maximum_percent == 100
    error_message = "The old task must stop before the new one uses its key."
  }
}

run "an_identity_from_a_given_file_system" {
  command = plan

  variables {
    state              = "dynamodb"
    state_import_efs   = true
    efs_file_system_id = "fs-0123abcd"
    efs_root_directory = "/"
    efs_owner_id       = 0
  }

  assert {
    condition     = length(aws_efs_file_system.state) == 0 && aws_efs_access_point.state[0].file_system_id == "fs-0123abcd"
    error_message = "The import reads the given file system."
  }
}

run "endpoints_for_identities" {
  command = plan

  variables {
    state                        = "dynamodb"
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
  }

  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["ecr.api", "ecr.dkr", "logs", "ec2", "secretsmanager", "kms", "ecs"]) && aws_vpc_endpoint.dynamodb[0].vpc_endpoint_type == "Gateway"
    error_message = "There is an endpoint for each service that keeps identities."
  }
}

run "endpoints_for_a_parameter" {
  command = plan

  variables {
    state                        = "ssm"
    create_vpc_endpoints         = true
    vpc_endpoint_route_table_ids = ["rtb-0a"]
  }

  assert {
    condition     = contains(keys(aws_vpc_endpoint.interface), "ssm") && length(aws_vpc_endpoint.dynamodb) == 0
    error_message = "The parameter needs the endpoint of SSM."
  }
}

run "autoscaling" {
  command = plan

  variables {
    autoscaling = { min = 2, max = 4 }
  }

  assert {
    condition     = aws_appautoscaling_target.tasks[0].min_capacity == 2 && aws_appautoscaling_target.tasks[0].max_capacity == 4 && aws_appautoscaling_target.tasks[0].resource_id == "service/main/sandbox-tailscale"
    error_message = "The target has the bounds."
  }

  assert {
    condition     = aws_appautoscaling_policy.cpu[0].target_tracking_scaling_policy_configuration[0].target_value == 60 && aws_appautoscaling_policy.cpu[0].target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type == "ECSServiceAverageCPUUtilization"
    error_message = "The policy follows the CPU utilization."
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].desired_count == 2 && aws_ecs_service.tailscale[0].availability_zone_rebalancing == "ENABLED"
    error_message = "A new service has the smallest number of tasks, or desired_count if that is larger."
  }
}

run "autoscaling_of_a_service_that_was_scaled_out" {
  command = plan

  override_data {
    target = data.aws_resourcegroupstaggingapi_resources.service[0]
    values = { resource_tag_mapping_list = [{ resource_arn = "arn:aws:ecs:eu-west-1:123456789012:service/main/sandbox-tailscale", tags = {}, compliance_details = [] }] }
  }
  override_data {
    target = data.aws_ecs_service.current["arn:aws:ecs:eu-west-1:123456789012:service/main/sandbox-tailscale"]
    values = { desired_count = 3, cluster_arn = "arn:aws:ecs:eu-west-1:123456789012:cluster/main" }
  }

  variables {
    autoscaling   = { min = 1, max = 4 }
    create_alarms = true
  }

  assert {
    condition     = aws_ecs_service.tailscale[0].desired_count == 3 && aws_cloudwatch_metric_alarm.running[0].threshold == 1
    error_message = "The plan keeps the count of autoscaling, which is ${aws_ecs_service.tailscale[0].desired_count}."
  }
}
