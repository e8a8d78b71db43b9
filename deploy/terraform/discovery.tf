resource "aws_service_discovery_service" "router" {
  count = var.create && var.service_discovery != null ? 1 : 0

  name = coalesce(trim(local.name, "-"), "tailscale") # a DNS label
  tags = var.tags

  # ECS removes the tasks' records some time after the deletion of the service.
  force_destroy = true

  dns_config {
    namespace_id   = var.service_discovery.namespace_id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 10
    }
  }

  # ECS reports the health of tasks to it.
  health_check_custom_config {
    failure_threshold = 1
  }
}
