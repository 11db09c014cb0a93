"""The bucket is private, encrypted, versioned and rid of removed checkpoints; the role is for accounts that exist."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.stack_files import read_stack
from pipelines.place import Place
from pipelines.stacks import storage_in
from srpo.durable import Mirror
from tests.infra.manifests import INFRA, manifests_of, run_tool
from tests.s3 import BUCKET

FOLDER = INFRA / "terraform"
TEXT = (FOLDER / "main.tf").read_text()


def block(kind: str, name: str = "artifacts") -> str:
    """Text of a resource, up to the brace that closes it."""
    found = re.search(rf'^(?:resource|data) "{kind}" "{name}" {{\n(.*?)^}}', TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no {kind}.{name}"
    return found[1]


def test_the_bucket_is_private() -> None:
    settings = re.findall(r"^  (\w+) += true$", block("aws_s3_bucket_public_access_block"), re.MULTILINE)
    assert set(settings) == {
        "block_public_acls",
        "block_public_policy",
        "ignore_public_acls",
        "restrict_public_buckets",
    }
    refused = block("aws_iam_policy_document", "tls_only")
    assert '"Deny"' in refused and "aws:SecureTransport" in refused


def test_the_bucket_is_encrypted_and_versioned() -> None:
    assert 'sse_algorithm = "aws:kms"' in block("aws_s3_bucket_server_side_encryption_configuration")
    assert 'status = "Enabled"' in block("aws_s3_bucket_versioning")


def test_removed_checkpoints_go_and_nothing_else(bucket: Any, tmp_path: Path) -> None:
    """Versioning keeps what was removed; a registered model lies beside the checkpoints and never expires."""
    artifacts = read_stack("kubernetes").artifact_store.configuration["path"].replace("${SRPO_BUCKET}", BUCKET)
    place = Place(tmp_path / ".srpo")
    checkpoint = place.runs / "one" / "train" / "checkpoints" / "update-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    Mirror(storage_in(artifacts), place.root).push(checkpoint)
    rules = block("aws_s3_bucket_lifecycle_configuration")
    (prefix,) = re.findall(r'prefix = "(.*)"', rules)
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert len(keys) == 2 and all(key.startswith(prefix) for key in keys)
    assert re.findall(r"noncurrent_days = (\d+)", rules) == ["1", "30"]
    assert not re.search(r"^ +expiration {", rules, re.MULTILINE)


def test_the_role_reaches_this_bucket_only() -> None:
    policy = block("aws_iam_policy_document", "bucket")
    assert set(re.findall(r'"(\w+:[\w*]+)"', policy)) <= {
        *("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts"),
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"),
    }
    resources = re.findall(r"resources += \[(.*)\]", policy)
    assert resources == ["aws_s3_bucket.artifacts.arn", '"${aws_s3_bucket.artifacts.arn}/*"']


def test_the_role_belongs_to_accounts_of_the_manifests() -> None:
    found = re.search(r"accounts = \[(.*)\]", TEXT)
    assert found
    accounts = [it["metadata"] for it in manifests_of("base") if it["kind"] == "ServiceAccount"]
    assert sorted(re.findall(r'"(\S+)"', found[1])) == sorted(f"{it['namespace']}:{it['name']}" for it in accounts)
    assert "sts.amazonaws.com" in block("aws_iam_policy_document", "trust")


def test_no_key_and_no_account_is_written_down() -> None:
    text = "".join(path.read_text() for path in FOLDER.glob("*.tf"))
    assert not re.search(r"AKIA|access_key|secret_key|\b\d{12}\b", text)


def test_the_format_is_terraform_s() -> None:
    run_tool("terraform", f"-chdir={FOLDER}", "fmt", "-check")


def test_terraform_accepts_it(tmp_path: Path) -> None:
    """Needs the AWS provider in a local mirror, which the variable names."""
    if not (mirror := os.environ.get("SRPO_TERRAFORM_MIRROR")):
        pytest.skip("SRPO_TERRAFORM_MIRROR names no folder made by `terraform providers mirror`")
    for path in FOLDER.glob("*.tf"):
        shutil.copy(path, tmp_path)
    run_tool("terraform", f"-chdir={tmp_path}", "init", "-backend=false", f"-plugin-dir={mirror}")
    run_tool("terraform", f"-chdir={tmp_path}", "validate")
