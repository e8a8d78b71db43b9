# Look-ups of arguments that are names, as in Hardfin's module. Whether there is a look-up
# depends only on the name: an ID or ARN instead may come from a resource that does not
# exist yet.

data "aws_region" "current" {
  count = var.create ? 1 : 0
}

data "aws_partition" "current" {
  count = var.create ? 1 : 0
}

data "aws_caller_identity" "current" {
  count = var.create ? 1 : 0
}

data "aws_vpc" "this" {
  count = var.create ? 1 : 0

  id   = var.vpc_id
  tags = var.vpc == null ? null : { Name = var.vpc }

  lifecycle {
    precondition {
      condition     = (var.vpc == null) != (var.vpc_id == null)
      error_message = "Set either vpc, the VPC's Name tag, or vpc_id."
    }
  }
}

data "aws_subnets" "group" {
  count = var.create && var.subnet_group != null ? 1 : 0

  filter {
    name   = "vpc-id"
    values = [local.vpc_id]
  }
  tags = {
    group = var.subnet_group
  }

  lifecycle {
    postcondition {
      condition     = length(self.ids) > 0
      error_message = "The VPC has no subnet with the tag group = \"${var.subnet_group}\": correct subnet_group, or set subnet_ids. In a VPC that another account shares with this one, the owner's tags are not visible."
    }
  }
}

data "aws_ecs_cluster" "target" {
  count = var.create && var.target_ecs_cluster != null ? 1 : 0

  cluster_name = var.target_ecs_cluster
}

data "aws_secretsmanager_secret" "auth" {
  count = var.create && var.tailscale_auth_key_secret != null ? 1 : 0

  name = var.tailscale_auth_key_secret
}

# Secrets Manager returns the key in the form in which it was set: an ARN, an ID or an alias.
# Whether it is looked up must not depend on the answer, nor on the ARN of a key
# that the same apply may create.
data "aws_kms_key" "auth" {
  count = var.create && var.tailscale_auth_key_secret != null && var.look_up_auth_secret_kms_key ? 1 : 0

  key_id = local.secret_key_id
}

# Of several subnets in a zone, mount targets and endpoints use the first in the
# list, so that a subnet added at the end does not replace a mount target.
data "aws_subnet" "task" {
  count = var.create && local.needs_zones ? length(local.subnet_ids) : 0

  id = local.subnet_ids[count.index]
}

data "aws_ecr_repository" "tailscale" {
  count = var.create && var.tailscale_docker_repository != null ? 1 : 0

  name = var.tailscale_docker_repository
}

data "aws_ecr_image" "tailscale" {
  count = var.create && var.tailscale_docker_repository != null ? 1 : 0

  repository_name = var.tailscale_docker_repository
  image_tag       = var.tailscale_docker_tag
}

locals {
  secret_key_id  = try(coalesce(data.aws_secretsmanager_secret.auth[0].kms_key_id), local.aws_secret_key)
  aws_secret_key = "alias/aws/secretsmanager"

  # Without create there is no look-up, and these values stand in for the answers.
  region     = var.create ? data.aws_region.current[0].id : "" # the name: the only attribute that 5.x and 6.x share
  partition  = var.create ? data.aws_partition.current[0].partition : ""
  dns_suffix = var.create ? data.aws_partition.current[0].dns_suffix : ""
  account_id = var.create ? data.aws_caller_identity.current[0].account_id : ""
  vpc = try(data.aws_vpc.this[0], {
    id = "", tags = {}, cidr_block = "10.0.0.0/16", cidr_block_associations = [], ipv6_cidr_block = "", enable_dns_support = true, enable_dns_hostnames = true
  })

  vpc_id     = local.vpc.id
  subnet_ids = var.subnet_group == null ? coalesce(var.subnet_ids, []) : sort(flatten(data.aws_subnets.group[*].ids)) # EC2 returns them in any order

  needs_zones     = var.create_vpc_endpoints || (local.uses_own_efs && var.efs_mount_target_subnet_ids == null)
  subnets_by_zone = { for zone, ids in { for s in data.aws_subnet.task : trimprefix(s.availability_zone, local.region) => s.id... } : zone => ids[0] }

  cluster_arn  = var.target_ecs_cluster == null ? var.cluster_arn : one(data.aws_ecs_cluster.target[*].arn)
  cluster_name = var.target_ecs_cluster == null ? try(split("/", var.cluster_arn)[1], null) : var.target_ecs_cluster

  # The digest, not the tag, so that a replaced task runs the applied image.
  image = var.tailscale_docker_repository == null ? var.image : one([for r in data.aws_ecr_repository.tailscale : "${r.repository_url}@${data.aws_ecr_image.tailscale[0].image_digest}"])
}
