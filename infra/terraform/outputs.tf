output "bucket" {
  description = "For SRPO_BUCKET."
  value       = aws_s3_bucket.artifacts.bucket
}

output "annotate" {
  description = "Commands that give the service accounts the role."
  value = [
    for account in local.accounts :
    "kubectl -n ${split(":", account)[0]} annotate serviceaccount ${split(":", account)[1]} eks.amazonaws.com/role-arn=${aws_iam_role.srpo.arn}"
  ]
}
