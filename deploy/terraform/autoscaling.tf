# Application Auto Scaling changes the service's desired count, which a plan must not reset.
# The provider sets an omitted desired_count to 0, and Terraform cannot ignore changes on a
# condition. So the plan reads the current count and keeps it. The look-up by tag finds
# nothing, instead of failing, if there is no service yet.

locals {
  autoscaling_tag  = "subnetrouter.dev/autoscaling"
  autoscaling_tags = var.autoscaling == null ? {} : { (local.autoscaling_tag) = local.service_name }

  autoscaled_services = toset([for s in flatten(data.aws_resourcegroupstaggingapi_resources.service[*].resource_tag_mapping_list) :
    s.resource_arn if can(regex(":service/[^/]+/${local.service_name}$", s.resource_arn))
  ])
  current_counts = [for s in data.aws_ecs_service.current : s.desired_count if s.cluster_arn == local.cluster_arn]

  desired_count = var.autoscaling == null ? var.desired_count : min(var.autoscaling.max, max(var.autoscaling.min, concat(local.current_counts, [var.desired_count])[0]))
}

data "aws_resourcegroupstaggingapi_resources" "service" {
  count = var.create && var.autoscaling != null ? 1 : 0

  resource_type_filters = ["ecs:service"]

  tag_filter {
    key    = local.autoscaling_tag
    values = [local.service_name]
  }
}

data "aws_ecs_service" "current" {
  for_each = local.autoscaled_services

  cluster_arn  = replace(each.value, "/:service/([^/]+)/.*$/", ":cluster/$1")
  service_name = local.service_name
}

resource "aws_appautoscaling_target" "tasks" {
  count = var.create && var.autoscaling != null ? 1 : 0

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${local.cluster_name}/${aws_ecs_service.tailscale[0].name}"
  min_capacity       = var.autoscaling.min
  max_capacity       = var.autoscaling.max
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "cpu" {
  count = var.create && var.autoscaling != null ? 1 : 0

  name               = "${local.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.tasks[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks[0].resource_id

  target_tracking_scaling_policy_configuration {
    target_value = var.autoscaling.target

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
