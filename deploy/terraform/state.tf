# The nodes' keys, for nodes that must keep their identities: on EFS here, in DynamoDB and
# SSM in identities.tf.

locals {
  # An import reads the file system that state = "efs" used, or a given one.
  uses_own_efs = var.state == "efs" || (var.state_import_efs && var.efs_file_system_id == null)
  on_efs       = contains(["efs", "existing-efs"], var.state) || var.state_import_efs
  create_efs   = var.create && local.uses_own_efs

  # EFS allows one per zone.
  mount_target_subnet_ids = !local.create_efs ? {} : var.efs_mount_target_subnet_ids != null ? var.efs_mount_target_subnet_ids : local.subnets_by_zone

  efs_file_system_id = local.uses_own_efs ? one(aws_efs_file_system.state[*].id) : var.efs_file_system_id
}

resource "aws_efs_file_system" "state" {
  count = local.create_efs ? 1 : 0

  encrypted  = true
  kms_key_id = var.efs_kms_key_arn
  tags       = merge({ Name = local.name }, var.tags)
}

resource "aws_efs_mount_target" "state" {
  for_each = local.mount_target_subnet_ids

  file_system_id  = aws_efs_file_system.state[0].id
  subnet_id       = each.value
  security_groups = concat(var.security_group_ids, aws_security_group.efs[*].id)
}

# Without a policy, a file system allows every client that can reach it.
resource "aws_efs_file_system_policy" "state" {
  count = local.create_efs && var.create_efs_policy ? 1 : 0

  file_system_id = aws_efs_file_system.state[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Router"
        Effect    = "Allow"
        Principal = { AWS = local.task_role_arn }
        Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
        Resource  = aws_efs_file_system.state[0].arn
        Condition = { StringEquals = { "elasticfilesystem:AccessPointArn" = aws_efs_access_point.state[0].arn } }
      },
      {
        Sid       = "OnlyEncrypted"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "*"
        Resource  = aws_efs_file_system.state[0].arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

# The module's own group allows only WireGuard inbound.
resource "aws_security_group" "efs" {
  count = local.create_efs && var.create_security_group ? 1 : 0

  name_prefix = "${local.group_name}-efs-"
  description = "State of the Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = "${local.name}-efs" }, var.tags)

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [name, name_prefix]
  }
}

resource "aws_vpc_security_group_ingress_rule" "efs" {
  count = local.create_efs && var.create_security_group ? 1 : 0

  security_group_id            = aws_security_group.efs[0].id
  description                  = "NFS from the router's tasks"
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  referenced_security_group_id = aws_security_group.router[0].id
  tags                         = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

# Everything below it belongs to the router, regardless of other contents of the file system.
resource "aws_efs_access_point" "state" {
  count = var.create && local.on_efs ? 1 : 0

  file_system_id = local.efs_file_system_id
  tags           = merge({ Name = local.name }, var.tags)

  posix_user {
    uid = var.efs_owner_id
    gid = var.efs_owner_id
  }

  root_directory {
    path = var.efs_root_directory

    creation_info {
      owner_uid   = var.efs_owner_id
      owner_gid   = var.efs_owner_id
      permissions = "0700"
    }
  }

  lifecycle {
    precondition {
      condition     = var.state == "existing-efs" ? var.efs_file_system_id != null : var.state != "efs" || var.efs_file_system_id == null
      error_message = "State \"existing-efs\" needs efs_file_system_id, and \"efs\" does not accept it."
    }
  }
}
