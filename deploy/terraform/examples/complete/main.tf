# Two routers in public subnets of two zones, one of them on Spot, with direct
# connections, an OAuth client, logs and secret under a key of one's own, alarms,
# and a name for Prometheus to find them by.

variable "vpc_id" {
  description = "ID of the VPC to reach."
  type        = string
  default     = "vpc-0123456789abcdef0"
}

variable "public_subnet_ids" {
  description = "IDs of public subnets, of two zones."
  type        = list(string)
  default     = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
}

variable "image" {
  description = "The image, with its digest."
  type        = string
  default     = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

resource "aws_ecs_cluster" "network" {
  name = "network"

  setting {
    name  = "containerInsights" # the alarm on the number of tasks reads it
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "network" {
  cluster_name       = aws_ecs_cluster.network.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_service_discovery_private_dns_namespace" "internal" {
  name = "network.internal"
  vpc  = var.vpc_id
}

resource "aws_sns_topic" "on_call" {
  name = "network-on-call"
}

resource "aws_security_group" "prometheus" {
  name   = "prometheus"
  vpc_id = var.vpc_id
}

resource "aws_security_group" "applications" {
  name   = "applications"
  vpc_id = var.vpc_id
}

# The value, {"client_id": …, "client_secret": …}, is put in by hand: so it is in
# no state.
resource "aws_secretsmanager_secret" "tailscale" {
  name       = "network/tailscale"
  kms_key_id = aws_kms_key.network.arn
}

resource "aws_kms_key" "network" {
  description = "Secret and logs of the subnet routers"
  policy      = data.aws_iam_policy_document.key.json
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_iam_policy_document" "key" {
  statement {
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }

  statement {
    actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["logs.${data.aws_region.current.id}.amazonaws.com"]
    }
    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${data.aws_partition.current.partition}:logs:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}:log-group:/ecs/network-router"]
    }
  }
}

module "subnet_router" {
  source = "../.."

  name = "network-router"
  tags = { team = "network" }

  # Two tasks over two zones: Tailscale sends all traffic to one, and to the other
  # when it or its zone fails. A deployment puts two new ones beside them, waits
  # until these carry routes, and lets the old ones hand over and leave.
  desired_count = 2
  health_check  = "started"
  capacity_provider_strategy = [
    { capacity_provider = "FARGATE", base = 1, weight = 0 },
    { capacity_provider = "FARGATE_SPOT", weight = 1 },
  ]

  vpc_id           = var.vpc_id
  subnet_ids       = var.public_subnet_ids
  assign_public_ip = true # clients connect directly, over udp_port


  # The service comes after the capacity providers of its cluster. With depends_on
  # every change of theirs would defer all look-ups of the module.
  cluster_arn = replace(aws_ecs_cluster.network.arn, "/[^/]+$/", aws_ecs_cluster_capacity_providers.network.cluster_name)

  create_security_group = true
  metrics_ingress_rules = { Prometheus = { security_group_id = aws_security_group.prometheus.id } }

  image            = var.image
  cpu_architecture = "ARM64"
  cpu              = 512
  memory           = 1024

  auth_secret_arn         = aws_secretsmanager_secret.tailscale.arn
  auth_secret_kms_key_arn = aws_kms_key.network.arn
  tailscale_tags          = ["tag:subnet-router"]

  routes         = ["vpc", "peerings"]
  exclude_routes = ["10.0.255.0/24"]
  probes         = ["10.0.3.4:5432"]
  flow_log       = true

  log_retention_days = 90
  log_kms_key_arn    = aws_kms_key.network.arn

  create_alarms     = true
  alarm_actions     = [aws_sns_topic.on_call.arn]
  service_discovery = { namespace_id = aws_service_discovery_private_dns_namespace.internal.id }

  # A database in the tailnet as a service of the VPC: applications connect to
  # network-router.network.internal, port 5432.
  egress               = ["0.0.0.0:5432=db:5432"]
  egress_ingress_rules = { Applications = { security_group_id = aws_security_group.applications.id } }
}

output "policy" {
  description = "What to merge into the tailnet's policy file."
  value       = module.subnet_router.autoapprovers_json
}

output "split_dns" {
  description = "How clients resolve the VPC's private zones."
  value       = module.subnet_router.split_dns.terraform
}
