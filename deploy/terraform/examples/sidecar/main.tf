# An application with a router as its sidecar. The containers share one network: the
# application reaches a database in the tailnet at localhost, and people of the tailnet
# reach the application at http://reports/, and nothing else of the VPC.

module "reports" {
  source = "../.."

  name       = "reports"
  vpc_id     = "vpc-0123456789abcdef0"
  subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]

  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true
  image                 = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn       = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
  cpu                   = 512
  memory                = 1024

  routes        = ["none"]
  egress        = ["5432=db:5432"]
  socks5_listen = ":1055" # everything else in the tailnet
  serve         = ["80=localhost:8080"]

  # It starts once the router is healthy, and stops before it. The application passes TAILNET_PROXY to the
  # connections that are for the tailnet. ALL_PROXY would send all others there, too, such as those to AWS and
  # the Internet, and they would fail: the proxy leads only into the tailnet.
  sidecars = {
    app = {
      image        = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/reports:1.0.0"
      user         = "1000:1000"
      environment  = { DATABASE = "localhost:5432", TAILNET_PROXY = "socks5h://localhost:1055" }
      health_check = ["CMD-SHELL", "curl -f http://localhost:8080/healthz"]
      stop_timeout = 60
    }
  }
}
