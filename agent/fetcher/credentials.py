"""What a provider's own tools would find on this node and obstore does not look for.

obstore reads variables, and asks the machine's metadata service when there are none. It does not read
AWS's shared files, and it does not fall back to anonymous access, which stock does for public
buckets: here the metadata service is asked first, once and with a short patience, as boto3 does.
"""

import configparser
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from obstore.store import AzureConfig, GCSConfig, S3Config

_METADATA_HOST = "169.254.169.254"  # link-local, the same for all three
_PATIENCE = 1.0  # seconds; boto3's default for one attempt
_OK = 200

_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_GOOGLE_VARIABLES = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
)
_AZURE_VARIABLES = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_MSI_ENDPOINT",
    "AZURE_IDENTITY_ENDPOINT",
)


def aws(environment: Mapping[str, str]) -> "S3Config":
    """Settings for S3 beyond the variables: the profile's, or anonymous access."""
    profile = _aws_profile(environment)
    settings: S3Config = {}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    endpoint = endpoint or environment.get("AWS_ENDPOINT") or profile.get("endpoint_url")
    if endpoint:
        settings["endpoint"] = endpoint.rstrip("/")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.get("region")
    if region:
        settings["region"] = region
    if any(environment.get(name) for name in _AWS_VARIABLES) or environment.get("AWS_SKIP_SIGNATURE"):
        return settings
    if "aws_access_key_id" in profile and "aws_secret_access_key" in profile:
        settings["access_key_id"] = profile["aws_access_key_id"]
        settings["secret_access_key"] = profile["aws_secret_access_key"]
        if "aws_session_token" in profile:
            settings["session_token"] = profile["aws_session_token"]
        return settings
    metadata = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{_METADATA_HOST}").rstrip("/")
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true" and _aws_role(metadata):
        settings["metadata_endpoint"] = metadata
    else:
        settings["skip_signature"] = True
    return settings


def _aws_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """The profile in use, of the shared configuration and credentials files; empty if there is none."""
    name = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    files = (
        (
            environment.get("AWS_CONFIG_FILE", "~/.aws/config"),
            name if name == "default" else f"profile {name}",
        ),
        (environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), name),
    )
    found: dict[str, str] = {}
    for path, section in files:
        parser = configparser.ConfigParser(interpolation=None, default_section="")
        try:
            parser.read(os.path.expanduser(path))  # noqa: PTH111 - a string from the environment
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        if parser.has_section(section):
            found.update(parser[section])
    return found


def _aws_role(metadata: str) -> bool:
    """Whether the machine has a role (instance metadata, version 2)."""
    token = _ask(metadata, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    path = "/latest/meta-data/iam/security-credentials/"
    return bool(token and _ask(metadata, "GET", path, {"X-aws-ec2-metadata-token": token}))


def bucket_region(bucket: str, endpoint: str | None) -> str | None:
    """The region that S3 tells for a bucket, also to those who may not read it; None if it does not."""
    address = f"{endpoint or 'https://s3.amazonaws.com'}/{quote(bucket)}"
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an endpoint is http or https
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
        error.close()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    region = headers.get("x-amz-bucket-region")
    return None if region is None else str(region)


def google(environment: Mapping[str, str]) -> "GCSConfig":
    """Settings for GCS beyond the variables: an emulator, or anonymous access."""
    emulator = environment.get("STORAGE_EMULATOR_HOST")
    if emulator:
        base = emulator if "://" in emulator else f"http://{emulator}"
        return {"base_url": base.rstrip("/"), "skip_signature": True}
    settings: GCSConfig = {}
    if environment.get("GOOGLE_BASE_URL"):
        settings["base_url"] = environment["GOOGLE_BASE_URL"]
    configured = any(environment.get(name) for name in _GOOGLE_VARIABLES)
    default = os.path.expanduser("~/.config/gcloud/application_default_credentials.json")  # noqa: PTH111 - as above
    if configured or os.path.exists(default):  # noqa: PTH110 - as above
        return settings
    host = environment.get("GCE_METADATA_HOST", _METADATA_HOST)
    path = "/computeMetadata/v1/instance/service-accounts/default/email"
    wanted = environment.get("NO_GCE_CHECK", "").lower() != "true"
    if not (wanted and _ask(f"http://{host}", "GET", path, {"Metadata-Flavor": "Google"})):
        settings["skip_signature"] = True
    return settings


def azure(environment: Mapping[str, str]) -> "AzureConfig":
    """Settings for Azure beyond the variables: the command-line login, or anonymous access."""
    if any(environment.get(name) for name in _AZURE_VARIABLES):
        return {}
    query = "/metadata/instance?api-version=2021-02-01"
    if _ask(f"http://{_METADATA_HOST}", "GET", query, {"Metadata": "true"}):
        return {}
    return {"use_azure_cli": True} if shutil.which("az") else {"skip_signature": True}


def _ask(base: str, method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """A metadata service's answer; None if there is none. Never by a proxy: the address is this machine's."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)
    try:
        connection.request(method, parts.path + path, headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return text if answer.status == _OK else None
