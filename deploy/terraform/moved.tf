# From Hardfin's module, whose resources are all in a submodule. Roles, log group and
# service keep their names, so none of them is replaced. Its policies and attachments are
# not moved, since the roles have inline policies here. UPGRADING.md has the details.

moved {
  from = module.subnet_router.aws_ecs_service.tailscale
  to   = aws_ecs_service.tailscale
}

moved {
  from = module.subnet_router.aws_ecs_task_definition.tailscale
  to   = aws_ecs_task_definition.tailscale
}

moved {
  from = module.subnet_router.aws_cloudwatch_log_group.tailscale
  to   = aws_cloudwatch_log_group.tailscale
}

moved {
  from = module.subnet_router.aws_iam_role.ecs_task_tailscale
  to   = aws_iam_role.ecs_task_tailscale
}

moved {
  from = module.subnet_router.aws_iam_role.ecs_task_execution_tailscale
  to   = aws_iam_role.ecs_task_execution_tailscale
}

# With create, each resource has an index. A target can be named once, so the moves above
# lead to the addresses without one.

moved {
  from = aws_ecs_service.tailscale
  to   = aws_ecs_service.tailscale[0]
}

moved {
  from = aws_ecs_task_definition.tailscale
  to   = aws_ecs_task_definition.tailscale[0]
}

moved {
  from = aws_cloudwatch_log_group.tailscale
  to   = aws_cloudwatch_log_group.tailscale[0]
}

moved {
  from = aws_iam_role.ecs_task_tailscale
  to   = aws_iam_role.ecs_task_tailscale[0]
}

moved {
  from = aws_iam_role.ecs_task_execution_tailscale
  to   = aws_iam_role.ecs_task_execution_tailscale[0]
}

moved {
  from = aws_iam_role_policy.execution
  to   = aws_iam_role_policy.execution[0]
}

moved {
  from = aws_iam_role_policy.router
  to   = aws_iam_role_policy.router[0]
}

# The file system holds the identity of the old node. Terraform forgets it instead of
# destroying it: state = "existing-efs" uses it again. Delete it by hand if you do not need
# it any more.

removed {
  from = module.subnet_router.aws_efs_file_system.tailscale
  lifecycle {
    destroy = false
  }
}

removed {
  from = module.subnet_router.aws_efs_access_point.tailscale
  lifecycle {
    destroy = false
  }
}

removed {
  from = module.subnet_router.aws_efs_mount_target.primary
  lifecycle {
    destroy = false
  }
}

# The same resources of Hardfin's submodule modules/subnet_router, which are at the top
# level of the calling module.

removed {
  from = aws_efs_file_system.tailscale
  lifecycle {
    destroy = false
  }
}

removed {
  from = aws_efs_access_point.tailscale
  lifecycle {
    destroy = false
  }
}

removed {
  from = aws_efs_mount_target.primary
  lifecycle {
    destroy = false
  }
}

# Mount targets were numbered in the order of subnet_ids, which is mostly that of
# the zones.

moved {
  from = aws_efs_mount_target.state[0]
  to   = aws_efs_mount_target.state["a"]
}

moved {
  from = aws_efs_mount_target.state[1]
  to   = aws_efs_mount_target.state["b"]
}

moved {
  from = aws_efs_mount_target.state[2]
  to   = aws_efs_mount_target.state["c"]
}

moved {
  from = aws_efs_mount_target.state[3]
  to   = aws_efs_mount_target.state["d"]
}

moved {
  from = aws_efs_mount_target.state[4]
  to   = aws_efs_mount_target.state["e"]
}

moved {
  from = aws_efs_mount_target.state[5]
  to   = aws_efs_mount_target.state["f"]
}
