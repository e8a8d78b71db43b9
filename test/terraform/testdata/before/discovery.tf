resource "aws_service_discovery_service" "router" {
  count = var.service_discovery == null ? 0 : 1

  name = local.name
  tags = var.tags

  dns_config {
    namespace_id   = var.service_discovery.namespace_id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 10
    }
  }

  # ECS tells it which tasks are healthy.
  health_check_custom_config {
    failure_threshold = 1
  }
}
