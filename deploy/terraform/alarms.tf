# From the boot timeout on, a router that is not ready logs it once a minute, unless it is
# stopping.
resource "aws_cloudwatch_log_metric_filter" "not_ready" {
  count = var.create && var.create_alarms ? 1 : 0

  name           = "${local.name}-not-ready"
  log_group_name = local.log_group_name
  pattern        = "{ $.msg = \"router not ready\" }"

  metric_transformation {
    namespace = "SubnetRouter"
    name      = "NotReady/${local.name}"
    value     = "1"
    unit      = "Count"
  }
}

resource "aws_cloudwatch_metric_alarm" "not_ready" {
  count = var.create && var.create_alarms ? 1 : 0

  alarm_name          = "${local.name}-not-ready"
  alarm_description   = "A subnet router has not been ready for 5 minutes: it serves no route. Its log has the cause in the field \"reasons\"."
  namespace           = aws_cloudwatch_log_metric_filter.not_ready[0].metric_transformation[0].namespace
  metric_name         = aws_cloudwatch_log_metric_filter.not_ready[0].metric_transformation[0].name
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 4
  treat_missing_data  = "notBreaching" # no line means ready
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "running" {
  count = var.create && var.create_alarms ? 1 : 0

  alarm_name          = "${local.name}-running"
  alarm_description   = "Fewer than ${local.fewest_tasks} subnet routers have been running for 5 minutes, or Container Insights are disabled in the cluster."
  namespace           = "ECS/ContainerInsights"
  metric_name         = "RunningTaskCount"
  dimensions          = { ClusterName = local.cluster_name, ServiceName = aws_ecs_service.tailscale[0].name }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 5
  comparison_operator = "LessThanThreshold"
  threshold           = local.fewest_tasks
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
  tags                = var.tags
}
