terraform {
  # 1.7 introduced "removed" blocks (moved.tf).
  required_version = ">= 1.7"

  required_providers {
    # 5.77.0 introduced availability_zone_rebalancing of aws_ecs_service.
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.77.0, < 7.0" # tested with 5.100.0
    }
  }
}
