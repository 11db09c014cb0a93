variable "region" {
  description = "AWS region of the bucket."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket; SRPO_BUCKET of infra/stacks, and in the ConfigMap mlflow of infra/kubernetes."
  type        = string
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's IAM OpenID Connect provider."
  type        = string
}

variable "role" {
  description = "Name of the IAM role for the service accounts."
  type        = string
  default     = "srpo"
}
