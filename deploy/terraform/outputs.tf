output "tailscale_ecs_task_role_name" {
  description = "Name of the task role, as which the router runs, to attach additional policies to."
  value       = local.task_role_name
}

output "task_role_arn" {
  description = "ARN of the task role, as which the router runs. It is the subject of the router's tokens in workload identity federation."
  value       = local.task_role_arn
}

output "execution_role_name" {
  description = "Name of the execution role, with which ECS pulls the image and writes logs."
  value       = local.execution_role_name
}

output "execution_role_arn" {
  description = "ARN of the execution role."
  value       = local.execution_role_arn
}

output "task_role_policy_json" {
  description = "Policy that the task role needs, for a task_role_arn of your own."
  value       = var.create ? jsonencode({ Version = "2012-10-17", Statement = local.task_role_statements }) : null
}

output "execution_role_policy_json" {
  description = "Policy that the execution role needs, for an execution_role_arn of your own."
  value       = var.create ? jsonencode({ Version = "2012-10-17", Statement = local.execution_role_statements }) : null
}

output "name" {
  description = "Name of the deployment."
  value       = local.name
}

output "service_name" {
  description = "Name of the ECS service: the name of the deployment when the service was created."
  value       = one(aws_ecs_service.tailscale[*].name)
}

output "service_arn" {
  description = "ARN of the ECS service."
  value       = one(aws_ecs_service.tailscale[*].id)
}

output "cluster_arn" {
  description = "ARN of the ECS cluster."
  value       = local.cluster_arn
}

output "task_definition_arn" {
  description = "ARN of the task definition with its revision."
  value       = one(aws_ecs_task_definition.tailscale[*].arn)
}

output "task_definition_family" {
  description = "Family of the task definition."
  value       = one(aws_ecs_task_definition.tailscale[*].family)
}

output "container_name" {
  description = "Name of the container, for ECS Exec and in log streams."
  value       = local.container.name
}

output "image" {
  description = "The image in the task definition."
  value       = local.image
}

output "environment" {
  description = "Environment of the container. It contains no secret."
  value       = local.environment
}

output "hostname" {
  description = "Name of the node in the tailnet, without the suffix of replicas."
  value       = local.hostname
}

output "vpc_id" {
  description = "ID of the VPC."
  value       = var.create ? local.vpc_id : null
}

output "subnet_ids" {
  description = "IDs of the subnets in which the tasks run."
  value       = local.subnet_ids
}

output "security_group_ids" {
  description = "IDs of all security groups of the tasks."
  value       = local.security_group_ids
}

output "security_group_id" {
  description = "ID of the security group that the module created, or null."
  value       = one(aws_security_group.router[*].id)
}

output "metrics_port" {
  description = "TCP port of /metrics, /healthz, /readyz and /status."
  value       = local.metrics_port
}

output "log_group_name" {
  description = "Name of the log group."
  value       = local.log_group_name
}

output "log_group_arn" {
  description = "ARN of the log group."
  value       = local.log_group_arn
}

output "efs_file_system_id" {
  description = "ID of the file system that holds the state, or null."
  value       = var.create && local.on_efs ? local.efs_file_system_id : null
}

output "efs_access_point_id" {
  description = "ID of the access point to the state, or null."
  value       = one(aws_efs_access_point.state[*].id)
}

output "dynamodb_table_name" {
  description = "Name of the table that holds the identities, or null."
  value       = var.create && local.on_dynamodb ? local.table : null
}

output "dynamodb_table_arn" {
  description = "ARN of the table that holds the identities, or null."
  value       = var.create && local.on_dynamodb ? local.table_arn : null
}

output "identity_slots" {
  description = "Number of identities in the table, or null."
  value       = local.on_dynamodb ? local.identity_slots : null
}

output "state_kms_key_arn" {
  description = "ARN of the KMS key with which the identities are encrypted, or null."
  value       = var.create && (local.on_dynamodb || local.on_ssm) ? local.state_key_arn : null
}

output "ssm_parameter_arn" {
  description = "ARN of the parameter that holds the identity, or null."
  value       = var.create && local.on_ssm ? local.state_parameter_arn : null
}

output "service_discovery_service_arn" {
  description = "ARN of the Cloud Map service, or null."
  value       = one(aws_service_discovery_service.router[*].arn)
}

output "vpc_endpoint_ids" {
  description = "IDs of the VPC endpoints that the module created, by service."
  value       = merge({ for service, e in aws_vpc_endpoint.interface : service => e.id }, { for e in aws_vpc_endpoint.s3 : "s3" => e.id }, { for e in aws_vpc_endpoint.dynamodb : "dynamodb" => e.id })
}

output "alarm_arns" {
  description = "ARNs of the alarms, keyed by condition: not_ready and running."
  value = merge(
    { for a in aws_cloudwatch_metric_alarm.not_ready : "not_ready" => a.arn },
    { for a in aws_cloudwatch_metric_alarm.running : "running" => a.arn },
  )
}

# ---------------------------------------------------------------- for the tailnet

locals {
  static_routes = [for r in local.routes : r if can(cidrhost(r, 0))]
  vpc_cidrs = length([for r in local.routes : r if r == "vpc" || r == "subnet" || can(regex("^(subnets|rds|lb):", r))]) == 0 ? [] : concat(
    [for a in local.vpc.cidr_block_associations : a.cidr_block if contains(["associated", ""], coalesce(a.state, "associated"))],
    [for cidr in [local.vpc.ipv6_cidr_block] : cidr if cidr != null && cidr != ""],
  )

  # With a site, the 4via6 addresses: fd7a:115c:a1e0:b1a, the site, the
  # IPv4 address. cidrsubnet returns the canonical form.
  approved_cidrs = [for cidr in distinct(concat(local.vpc_cidrs, local.static_routes)) :
    var.site_id == null || strcontains(cidr, ":") ? cidr :
    cidrsubnet(format("fd7a:115c:a1e0:b1a:0:%x:%02x%02x:%02x%02x/%d", flatten([
      var.site_id, [for octet in split(".", cidrhost(cidr, 0)) : tonumber(octet)], 96 + tonumber(split("/", cidr)[1]),
    ])...), 0, 0)
  ]

  resolver4 = cidrhost(local.vpc.cidr_block, 2)
  resolver = var.site_id == null ? local.resolver4 : cidrhost(format("fd7a:115c:a1e0:b1a:0:%x:%02x%02x:%02x%02x/128", flatten([
    var.site_id, [for octet in split(".", local.resolver4) : tonumber(octet)],
  ])...), 0)
}

output "container_definition" {
  description = "Definition of the router's container as JSON, for a task definition of your own: put it into container_definitions next to your containers. The task needs the network mode awsvpc, the roles of task_role_policy_json and execution_role_policy_json, and with state = \"efs\" the volume state."
  value       = !var.create ? null : jsonencode(local.container)
}

output "autoapprovers_json" {
  description = "Part to merge into the tailnet's policy file. It approves the routes automatically (the VPC's current CIDRs and static ones; databases and load balancers are in the former; the module does not know the addresses of peerings, prefix lists and host:NAME), and allows routers to hand over flows to each other."
  value = !var.create ? null : jsonencode({
    autoApprovers = { routes = { for cidr in local.approved_cidrs : cidr => local.tailnet_tags } }
    grants        = [{ src = local.tailnet_tags, dst = local.tailnet_tags, ip = ["udp:9003"] }]
  })
}

output "split_dns" {
  description = "Settings with which clients resolve the VPC's private zones: the address of the VPC's resolver for clients, and the Terraform resource for a zone. The address must be within an advertised route, as it is by default."
  value = !var.create ? null : {
    nameservers = [local.resolver]
    terraform   = <<-EOT
      resource "tailscale_dns_split_nameservers" "vpc" {
        domain      = "internal.example.com" # your private zone
        nameservers = ["${local.resolver}"]
      }
    EOT
  }
}
