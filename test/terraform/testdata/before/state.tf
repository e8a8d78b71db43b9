# The node's keys on EFS, where a node must keep its identity.

locals {
  on_efs             = var.state != "ephemeral"
  efs_file_system_id = var.state == "efs" ? one(aws_efs_file_system.state[*].id) : var.efs_file_system_id
}

resource "aws_efs_file_system" "state" {
  count = var.state == "efs" ? 1 : 0

  encrypted  = true
  kms_key_id = var.efs_kms_key_arn
  tags       = merge({ Name = local.name }, var.tags)
}

resource "aws_efs_mount_target" "state" {
  count = var.state == "efs" ? length(local.subnet_ids) : 0

  file_system_id  = aws_efs_file_system.state[0].id
  subnet_id       = local.subnet_ids[count.index]
  security_groups = concat(var.security_group_ids, aws_security_group.efs[*].id)
}

# The module's own group lets nothing in but WireGuard.
resource "aws_security_group" "efs" {
  count = var.state == "efs" && var.create_security_group ? 1 : 0

  name        = "${local.name}-efs"
  description = "State of the Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = "${local.name}-efs" }, var.tags)
}

resource "aws_vpc_security_group_ingress_rule" "efs" {
  count = var.state == "efs" && var.create_security_group ? 1 : 0

  security_group_id            = aws_security_group.efs[0].id
  description                  = "NFS from the router's tasks"
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
  referenced_security_group_id = aws_security_group.router[0].id
  tags                         = var.tags
}

# Everything behind it belongs to the router, whatever the file system holds besides.
resource "aws_efs_access_point" "state" {
  count = local.on_efs ? 1 : 0

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
      condition     = (var.state == "existing-efs") == (var.efs_file_system_id != null)
      error_message = "Give efs_file_system_id with state = \"existing-efs\", and only then."
    }
  }
}
