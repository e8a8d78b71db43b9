locals {
  # "<vpc>-tailscale" if AWS accepts that as a name. The characters of a Name
  # tag that AWS does not accept in a role's or a family's name become dashes. A
  # tag without other characters is replaced by the VPC's ID.
  vpc_name = var.vpc == null ? lookup(local.vpc.tags, "Name", "") : var.vpc
  vpc_label = (
    can(regex("^[A-Za-z0-9_-]{1,35}$", local.vpc_name)) ? local.vpc_name :
    can(regex("^[ -~]+$", local.vpc_name)) ? trim(replace(local.vpc_name, "/[^A-Za-z0-9_-]+/", "-"), "-") :
    ""
  )
  default_name = "${can(regex("^.{1,35}$", local.vpc_label)) ? local.vpc_label : local.vpc_id}-tailscale"

  name = var.name == null ? try(terraform_data.default_name[0].input, local.default_name) : var.name

  # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
  fargate_memory = {
    256   = [512, 1024, 2048]
    512   = range(1024, 4097, 1024)
    1024  = range(2048, 8193, 1024)
    2048  = range(4096, 16385, 1024)
    4096  = range(8192, 30721, 1024)
    8192  = range(16384, 61441, 4096)
    16384 = range(32768, 122881, 8192)
  }

  minimum_healthy_percent = coalesce(var.deployment_minimum_healthy_percent, local.one_task ? 0 : 100)
  maximum_percent         = coalesce(var.deployment_maximum_percent, local.one_task ? 100 : 200)

  # ECS moves a task from a zone with two once the other zone is available. That needs
  # room for one more task than are desired. It looks like a scale-in to the task, which would
  # remove its node from the tailnet.
  zone_rebalancing = coalesce(var.availability_zone_rebalancing, local.most_tasks > 1 && local.maximum_percent > 100 && !local.on_dynamodb)

  container = { for k, v in {
    name      = "tailscale"
    image     = local.image
    essential = true
    user      = var.kernel_mode ? "0:0" : "65532:65532" # images before file capabilities give them to root only

    environment = [for k in sort(keys(local.environment)) : { name = k, value = local.environment[k] }]

    # ECS Exec mounts its agent into the container's root.
    readonlyRootFilesystem = !var.enable_execute_command
    linuxParameters = { for k, v in {
      initProcessEnabled = true
      capabilities       = { add = var.kernel_mode ? ["NET_ADMIN", "NET_RAW"] : [], drop = ["ALL"] } # as ECS stores it
      devices            = var.kernel_mode ? [{ hostPath = "/dev/net/tun", containerPath = "/dev/net/tun", permissions = ["read", "write"] }] : null
    } : k => v if v != null }
    # Ping without a capability, for this group; forwarding in the kernel.
    systemControls = concat(
      [{ namespace = "net.ipv4.ping_group_range", value = "65532 65532" }],
      var.kernel_mode ? [{ namespace = "net.ipv4.ip_forward", value = "1" }, { namespace = "net.ipv6.conf.all.forwarding", value = "1" }] : [],
    )
    ulimits     = [{ name = "nofile", softLimit = var.open_files, hardLimit = var.open_files }]
    stopTimeout = var.stop_timeout

    healthCheck = {
      command     = concat(["CMD", "/router", "healthcheck"], var.health_check == "started" ? ["--started"] : [])
      interval    = 10
      timeout     = 5
      retries     = 3
      startPeriod = coalesce(var.health_check_start_period, var.health_check == "started" ? 300 : 60)
    }

    portMappings = [
      { containerPort = local.metrics_port, hostPort = local.metrics_port, protocol = "tcp" },
      { containerPort = var.udp_port, hostPort = var.udp_port, protocol = "udp" },
    ]
    mountPoints = local.on_efs ? [{ sourceVolume = "state", containerPath = local.state_dir, readOnly = var.state_import_efs }] : []
    volumesFrom = []

    # Labels by which the CloudWatch agent or ecs_observer discovers the metrics.
    dockerLabels = {
      ECS_PROMETHEUS_EXPORTER_PORT = tostring(local.metrics_port)
      ECS_PROMETHEUS_METRICS_PATH  = "/metrics"
      ECS_PROMETHEUS_JOB_NAME      = local.name
    }

    logConfiguration = var.log_configuration != null ? { logDriver = var.log_configuration.log_driver, options = var.log_configuration.options } : {
      logDriver = "awslogs"
      options = {
        awslogs-group         = local.log_group_name
        awslogs-region        = local.region
        awslogs-stream-prefix = "ecs"
        mode                  = "non-blocking" # a full pipe must not block the router
        max-buffer-size       = "10m"
      }
    }

    secrets               = length(var.secrets) == 0 ? null : [for k in sort(keys(var.secrets)) : { name = k, valueFrom = var.secrets[k] }]
    repositoryCredentials = var.repository_credentials_secret_arn == null ? null : { credentialsParameter = var.repository_credentials_secret_arn }
  } : k => v if v != null }
}

# The default name of the first apply stays: roles, log group and task family are
# not replaced when the VPC's Name tag changes.
resource "terraform_data" "default_name" {
  count = var.create ? 1 : 0

  input = local.default_name

  lifecycle {
    ignore_changes = [input]
  }
}

resource "aws_ecs_task_definition" "tailscale" {
  count = var.create ? 1 : 0

  family                   = local.name
  requires_compatibilities = [var.launch_type]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = local.execution_role_arn
  task_role_arn            = local.task_role_arn
  container_definitions    = jsonencode(concat([local.container], local.sidecars, var.extra_containers))
  skip_destroy             = var.keep_task_definitions
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  dynamic "volume" {
    for_each = local.on_efs ? ["state"] : []

    content {
      name = volume.value

      efs_volume_configuration {
        file_system_id     = local.efs_file_system_id
        transit_encryption = "ENABLED"

        authorization_config {
          access_point_id = aws_efs_access_point.state[0].id
          iam             = "ENABLED"
        }
      }
    }
  }

  depends_on = [terraform_data.roles_known, aws_iam_role_policy.execution, aws_iam_role_policy.router]

  lifecycle {
    precondition {
      condition     = var.launch_type != "FARGATE" || contains(local.fargate_memory[var.cpu], var.memory)
      error_message = "Fargate does not offer a task with cpu ${var.cpu} and memory ${var.memory}: for that cpu the memory must be one of ${join(", ", local.fargate_memory[var.cpu])}."
    }
    precondition {
      condition     = !var.kernel_mode || var.launch_type == "EC2"
      error_message = "Fargate tasks cannot have /dev/net/tun and NET_ADMIN: set launch_type to EC2, or remove kernel_mode."
    }
    precondition {
      condition     = length(local.sidecar_conflicts) == 0
      error_message = join("\n", local.sidecar_conflicts)
    }
    precondition {
      condition     = length(local.problems) == 0
      error_message = "The router would reject its settings:\n${join("\n", local.problems)}"
    }
    precondition {
      condition     = length([for given in [var.tailscale_auth_key_secret, var.auth_secret_arn, var.tailscale_client_id] : given if given != null]) == 1
      error_message = "Set exactly one credential: tailscale_auth_key_secret, auth_secret_arn, or tailscale_client_id with tailscale_audience."
    }
    precondition {
      condition     = (var.tailscale_client_id == null) == (var.tailscale_audience == null)
      error_message = "Set tailscale_client_id and tailscale_audience together."
    }
    precondition {
      condition     = var.auth_secret_json_key == null || var.tailscale_client_id == null
      error_message = "The auth_secret_json_key belongs to a secret: remove it, or set the secret instead of tailscale_client_id."
    }
    precondition {
      condition     = !var.create_vpc_endpoints || local.auth_parameter_arn == null || contains(local.endpoint_services, "ssm")
      error_message = "The router reads its credential from Systems Manager, for which there is no endpoint: set vpc_endpoint_services, with ssm instead of secretsmanager."
    }
    precondition {
      condition     = !var.create_vpc_endpoints || alltrue([for service in concat(local.uses_databases ? ["rds"] : [], local.uses_balancers ? ["elasticloadbalancing"] : []) : contains(local.endpoint_services, service)])
      error_message = "The router looks up databases or load balancers, for which there is no endpoint: set vpc_endpoint_services, with rds for rds:TAG=VALUE and elasticloadbalancing for lb:TAG=VALUE."
    }
    precondition {
      condition     = (var.image == null) != (var.tailscale_docker_repository == null)
      error_message = "Set either image or tailscale_docker_repository with tailscale_docker_tag."
    }
    precondition {
      condition     = (var.tailscale_docker_repository == null) == (var.tailscale_docker_tag == null)
      error_message = "Set tailscale_docker_repository and tailscale_docker_tag together."
    }
    precondition {
      condition     = var.create_task_role == (var.task_role_arn == null) && var.create_execution_role == (var.execution_role_arn == null)
      error_message = "For a role of your own, set create_task_role to false and task_role_arn, or create_execution_role to false and execution_role_arn."
    }
    precondition {
      condition     = (var.create_task_role || length(var.task_role_policy_arns) == 0) && (var.create_execution_role || length(var.execution_role_policy_arns) + length(var.execution_role_statements) == 0)
      error_message = "The module does not change a role of your own: attach its policies yourself, and remove task_role_policy_arns, execution_role_policy_arns and execution_role_statements."
    }
    precondition {
      condition     = !var.create_log_group || var.log_group_name == null
      error_message = "The log_group_name is that of an existing group: set create_log_group to false, or remove it."
    }
    precondition {
      condition     = var.create_log_group || var.log_group_name != null || (var.log_configuration != null && !var.create_alarms)
      error_message = "There is no log group for the router or its alarm: set log_group_name, or leave create_log_group at true."
    }
    precondition {
      condition     = var.region == null || var.region == local.region
      error_message = "The provider's region is ${local.region}, not ${coalesce(var.region, "none")}: pass the module a provider for that region, as in providers = { aws = aws.${replace(coalesce(var.region, "none"), "-", "_")} }."
    }
    precondition {
      condition     = var.stop_timeout >= var.drain_timeout + 10
      error_message = "ECS would kill the router while it drains: stop_timeout (${var.stop_timeout}) must be at least drain_timeout (${var.drain_timeout}) plus 10."
    }
  }
}

resource "aws_ecs_service" "tailscale" {
  count = var.create ? 1 : 0

  name                   = local.service_name
  cluster                = local.cluster_arn
  task_definition        = aws_ecs_task_definition.tailscale[0].arn
  desired_count          = local.desired_count
  launch_type            = length(var.capacity_provider_strategy) == 0 ? var.launch_type : null
  platform_version       = var.launch_type == "FARGATE" ? var.platform_version : null
  enable_execute_command = var.enable_execute_command
  wait_for_steady_state  = var.wait_for_steady_state
  force_new_deployment   = coalesce(var.force_new_deployment, length(var.capacity_provider_strategy) > 0)

  availability_zone_rebalancing = local.zone_rebalancing ? "ENABLED" : "DISABLED"

  # The new router starts first, then the old one hands over and stops.
  deployment_minimum_healthy_percent = local.minimum_healthy_percent
  deployment_maximum_percent         = local.maximum_percent

  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"
  tags                    = merge(var.tags, local.autoscaling_tags)

  deployment_controller {
    type = "ECS"
  }

  deployment_circuit_breaker {
    enable   = var.deployment_circuit_breaker.enable
    rollback = var.deployment_circuit_breaker.rollback
  }

  timeouts {
    create = var.timeouts.create
    update = var.timeouts.update
    delete = var.timeouts.delete
  }

  dynamic "alarms" {
    for_each = var.alarm_rollback ? aws_cloudwatch_metric_alarm.not_ready : []

    content {
      alarm_names = [alarms.value.alarm_name]
      enable      = true
      rollback    = true
    }
  }

  dynamic "capacity_provider_strategy" {
    for_each = var.capacity_provider_strategy

    content {
      capacity_provider = capacity_provider_strategy.value.capacity_provider
      weight            = capacity_provider_strategy.value.weight
      base              = capacity_provider_strategy.value.base
    }
  }

  network_configuration {
    assign_public_ip = var.assign_public_ip
    security_groups  = local.security_group_ids
    subnets          = local.subnet_ids
  }

  dynamic "service_registries" {
    for_each = aws_service_discovery_service.router

    content {
      registry_arn = service_registries.value.arn
    }
  }

  # A task that starts before its roles have permissions fails.
  depends_on = [
    aws_iam_role_policy.execution,
    aws_iam_role_policy.router,
    aws_iam_role_policy.exec,
    aws_iam_role_policy.efs,
    aws_iam_role_policy_attachment.execution,
    aws_iam_role_policy_attachment.task,
    aws_efs_mount_target.state,
    aws_vpc_endpoint.interface,
    aws_vpc_endpoint.s3,
    aws_vpc_endpoint.dynamodb,

    # A replaced group keeps its rules until no task uses it.
    aws_vpc_security_group_ingress_rule.wireguard,
    aws_vpc_security_group_ingress_rule.peer_relay,
    aws_vpc_security_group_ingress_rule.endpoints,
    aws_vpc_security_group_ingress_rule.efs,
    aws_vpc_security_group_egress_rule.all,
    aws_vpc_security_group_egress_rule.given,
  ]

  lifecycle {
    # The provider's waiter accepts a service that is steady on the previous revision.
    postcondition {
      condition     = !var.wait_for_steady_state || self.task_definition == aws_ecs_task_definition.tailscale[0].arn
      error_message = "The deployment failed, and ECS rolled it back: the service runs ${self.task_definition}. The events of the service and the logs of the stopped tasks contain the cause; correct it and apply again."
    }

    # A service keeps its original name: another name is another
    # service in ECS, and Terraform would stop every router before it starts one.
    ignore_changes = [name]

    # Identities, permissions and the scaling target depend on the name.
    postcondition {
      condition     = self.name == local.service_name || !(local.on_dynamodb || local.on_ssm || var.autoscaling != null)
      error_message = "The service keeps its name, ${self.name}, under which the router finds its identity: set service_name to \"${self.name}\"."
    }

    precondition {
      condition     = (var.target_ecs_cluster == null) != (var.cluster_arn == null)
      error_message = "Set either target_ecs_cluster or cluster_arn."
    }
    precondition {
      condition     = (var.subnet_group == null) != (var.subnet_ids == null)
      error_message = "Set either subnet_group or subnet_ids."
    }
    precondition {
      condition     = length(local.security_group_ids) >= 1 && length(local.security_group_ids) <= 5
      error_message = "A task has 1 to 5 security groups: set security_group_ids, or set create_security_group."
    }
    precondition {
      condition     = var.create_security_group || (length(var.metrics_ingress_security_group_ids) == 0 && length(var.metrics_ingress_cidrs) == 0 && length(var.metrics_ingress_rules) == 0 && length(var.egress_ingress_rules) == 0 && var.egress_rules == null)
      error_message = "The metrics_ingress_security_group_ids, metrics_ingress_cidrs, metrics_ingress_rules, egress_ingress_rules and egress_rules apply to the security group of the module: set create_security_group."
    }
    precondition {
      condition     = length(var.egress_ingress_rules) == 0 || length(local.vpc_ports) > 0
      error_message = "The egress_ingress_rules have no port to open, since the VPC reaches no listener: give egress, socks5_listen or http_proxy_listen an address, as in 0.0.0.0:5432=db:5432."
    }
    precondition {
      condition     = !local.one_task || (var.desired_count <= 1 && local.maximum_percent <= 100)
      error_message = "With state on a file system or in a parameter, and while state_import_efs is on, only one task can run at a time: leave desired_count at 1 and deployment_maximum_percent at 100, or set state to dynamodb or ephemeral."
    }
    precondition {
      condition     = !local.one_task || var.autoscaling == null
      error_message = "With state on a file system or in a parameter, and while state_import_efs is on, only one task can run at a time: remove autoscaling, or set state to dynamodb or ephemeral."
    }
    precondition {
      condition     = (var.state == "existing-dynamodb") == (var.dynamodb_table_arn != null)
      error_message = "Set dynamodb_table_arn if, and only if, state is \"existing-dynamodb\"."
    }
    precondition {
      condition     = !local.on_dynamodb || var.create_state_kms_key == (var.state_kms_key_arn == null)
      error_message = "For a KMS key of your own, set create_state_kms_key to false and state_kms_key_arn."
    }
    precondition {
      condition     = local.on_dynamodb || var.identity_slots == null
      error_message = "The identity_slots are those of a table: remove them, or set state to dynamodb."
    }
    precondition {
      condition     = local.identity_slots >= local.most_tasks
      error_message = "There are fewer identities than tasks: identity_slots (${local.identity_slots}) must be at least ${local.most_tasks}, or be removed."
    }
    precondition {
      condition     = local.on_dynamodb || !var.state_import_efs
      error_message = "An identity can be imported from EFS into a table only: set state to dynamodb, or remove state_import_efs."
    }
    precondition {
      condition     = !var.assign_public_ip || var.launch_type == "FARGATE"
      error_message = "Tasks on EC2 instances cannot have a public address: remove assign_public_ip, and use subnets with a NAT gateway."
    }
    precondition {
      condition     = !local.zone_rebalancing || local.maximum_percent > 100
      error_message = "To rebalance zones, ECS starts one more task than desired_count: remove availability_zone_rebalancing, or raise deployment_maximum_percent above 100."
    }
    precondition {
      condition     = local.minimum_healthy_percent < 100 || local.maximum_percent > 100
      error_message = "With both percentages at 100, ECS can neither stop a task nor start one: lower deployment_minimum_healthy_percent or raise deployment_maximum_percent."
    }
    precondition {
      condition     = var.create_alarms || !var.alarm_rollback
      error_message = "The alarm_rollback needs the alarm: set create_alarms."
    }
  }
}
