variable "name" { type = string }
variable "vpc" { type = string }
variable "subnet_group" { type = string }
variable "assign_public_ip" { type = bool }
variable "security_group_ids" { type = list(string) }
variable "target_ecs_cluster" { type = string }
variable "tailscale_auth_key_secret" { type = string }
variable "tailscale_docker_repository" { type = string }
variable "tailscale_docker_tag" { type = string }
variable "enable_execute_command" { type = bool }
variable "additional_routes" { type = list(string) }
variable "cpu_architecture" { type = string }
variable "additional_flags" { type = string }
variable "cpu" { type = number }
variable "memory" { type = number }

locals {
  name = coalesce(var.name, "${var.vpc}-tailscale")
  trust = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ecs-tasks.amazonaws.com" } }]
  })
}

data "aws_region" "this" {}

data "aws_partition" "this" {}

data "aws_vpc" "this" {
  tags = { Name = var.vpc }
}

data "aws_subnets" "this" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.this.id]
  }
  tags = { group = var.subnet_group }
}

data "aws_ecs_cluster" "this" {
  cluster_name = var.target_ecs_cluster
}

data "aws_secretsmanager_secret" "this" {
  name = var.tailscale_auth_key_secret
}

data "aws_ecr_repository" "this" {
  name = var.tailscale_docker_repository
}

data "aws_ecr_image" "this" {
  repository_name = var.tailscale_docker_repository
  image_tag       = var.tailscale_docker_tag
}

resource "aws_cloudwatch_log_group" "tailscale" {
  name              = "/ecs/${local.name}"
  retention_in_days = 7
}

resource "aws_iam_role" "ecs_task_execution_tailscale" {
  name               = "ecs-task-execution-${local.name}"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy_attachment" "ecs_task_execution_tailscale" {
  role       = aws_iam_role.ecs_task_execution_tailscale.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_policy" "ecs_task_secrets_tailscale" {
  name = "ecs-task-secrets-${local.name}"
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = data.aws_secretsmanager_secret.this.arn }]
  })
}

resource "aws_iam_role_policy_attachment" "ecs_task_secrets_tailscale" {
  role       = aws_iam_role.ecs_task_execution_tailscale.name
  policy_arn = aws_iam_policy.ecs_task_secrets_tailscale.arn
}

resource "aws_iam_role" "ecs_task_tailscale" {
  name               = "ecs-task-${local.name}"
  assume_role_policy = local.trust
}

resource "aws_iam_policy" "ecs_task_logs_tailscale" {
  name = "ecs-task-logs-${local.name}"
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "logs:PutLogEvents", Resource = aws_cloudwatch_log_group.tailscale.arn }]
  })
}

resource "aws_iam_role_policy_attachment" "ecs_task_logs_tailscale" {
  role       = aws_iam_role.ecs_task_tailscale.name
  policy_arn = aws_iam_policy.ecs_task_logs_tailscale.arn
}

resource "aws_efs_file_system" "tailscale" {
  creation_token = local.name
  tags           = { Name = local.name }
}

resource "aws_efs_access_point" "tailscale" {
  file_system_id = aws_efs_file_system.tailscale.id
  root_directory {
    path = "/var/lib/tailscale"
  }
}

resource "aws_efs_mount_target" "primary" {
  for_each = toset(data.aws_subnets.this.ids)

  file_system_id  = aws_efs_file_system.tailscale.id
  subnet_id       = each.key
  security_groups = var.security_group_ids
}

resource "aws_ecs_task_definition" "tailscale" {
  family                   = local.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.ecs_task_execution_tailscale.arn
  task_role_arn            = aws_iam_role.ecs_task_tailscale.arn

  container_definitions = jsonencode([{
    name      = "tailscale"
    image     = "${data.aws_ecr_repository.this.repository_url}@${data.aws_ecr_image.this.image_digest}"
    essential = true
    environment = [
      { name = "TAILSCALE_HOSTNAME", value = local.name },
      { name = "TAILSCALE_ADVERTISE_ROUTES", value = join(",", concat([data.aws_vpc.this.cidr_block], var.additional_routes)) },
      { name = "TAILSCALE_ADDITIONAL_FLAGS", value = var.additional_flags },
    ]
    secrets     = [{ name = "TAILSCALE_AUTH_KEY", valueFrom = data.aws_secretsmanager_secret.this.arn }]
    mountPoints = [{ sourceVolume = "state", containerPath = "/var/lib/tailscale", readOnly = false }]
    logConfiguration = {
      logDriver = "awslogs"
      options   = { awslogs-group = aws_cloudwatch_log_group.tailscale.name, awslogs-region = data.aws_region.this.name, awslogs-stream-prefix = "ecs" }
    }
    linuxParameters = { initProcessEnabled = true }
  }])

  volume {
    name = "state"
    efs_volume_configuration {
      file_system_id     = aws_efs_file_system.tailscale.id
      transit_encryption = "ENABLED"
    }
  }

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }
}

resource "aws_ecs_service" "tailscale" {
  name                   = coalesce(var.name, "tailscale")
  cluster                = data.aws_ecs_cluster.this.arn
  task_definition        = aws_ecs_task_definition.tailscale.arn
  desired_count          = 1
  wait_for_steady_state  = true
  launch_type            = "FARGATE"
  enable_execute_command = var.enable_execute_command

  deployment_circuit_breaker {
    enable   = false
    rollback = false
  }

  deployment_controller {
    type = "ECS"
  }

  network_configuration {
    assign_public_ip = var.assign_public_ip
    security_groups  = var.security_group_ids
    subnets          = data.aws_subnets.this.ids
  }
}

output "tailscale_ecs_task_role_name" {
  value = aws_iam_role.ecs_task_tailscale.name
}
