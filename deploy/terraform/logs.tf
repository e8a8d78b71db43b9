locals {
  log_group_name = var.create_log_group ? one(aws_cloudwatch_log_group.tailscale[*].name) : var.log_group_name
  log_group_arn = (
    var.create_log_group ? one(aws_cloudwatch_log_group.tailscale[*].arn) :
    var.log_group_name == null ? null :
    "arn:${local.partition}:logs:${local.region}:${local.account_id}:log-group:${var.log_group_name}"
  )
}

resource "aws_cloudwatch_log_group" "tailscale" {
  count = var.create && var.create_log_group ? 1 : 0

  name              = "/ecs/${local.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}
