terraform {
  # "removed" blocks (moved.tf) came with 1.7.
  required_version = ">= 1.7"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0" # tested with 5.100.0
    }
  }
}
