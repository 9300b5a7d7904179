"""s3://, gs://, azure:// and abfss://: S3 against moto's server, the rest against ours."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from fetch_servers import FIELD, S3, Authority, MakeContext, Request, Serve, content, names, remove, write

from ray_envd.agent.errors import DownloadError, NetworkError, Retry
from ray_envd.agent.fetch import fetch, validator

BODY = b"package " * 400_000
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "wJalrCANARY"}
OBJECT = {"ETag": '"e1"', "Last_Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
AZURE_KEY = "Q0FOQVJZQ0FOQVJZ"


def found(request: Request) -> None:
    request.answer(BODY, **OBJECT)


@pytest.mark.parametrize(
    "key", ["code.zip", "a/b/code.zip", "my own code.zip", "per%20cent.zip", "ümlaut+.zip"]
)
async def test_an_object_of_s3_arrives(s3: S3, make_context: MakeContext, target: Path, key: str) -> None:
    """At a custom endpoint by plain http, whatever the key; the validator is the same without download."""
    s3.put(key, BODY)
    context = make_context(AWS_ENDPOINT_URL=s3.url, **KEYS)
    done = await fetch(f"s3://bucket/{key}", target, context, field=FIELD)
    assert content(target) == BODY
    assert done.validator == await validator(f"s3://bucket/{key}", context, field=FIELD)
    assert str(done.validator).startswith("etag ")


async def test_the_validator_of_an_object_changes_with_it(s3: S3, make_context: MakeContext) -> None:
    """So that a new upload is seen."""
    context = make_context(AWS_ENDPOINT_URL=s3.url, **KEYS)
    tokens = set()
    for body in (b"1", b"2"):
        s3.put("changing.zip", body)
        tokens.add(await validator("s3://bucket/changing.zip", context, field=FIELD))
    assert len(tokens) == 2


async def test_the_endpoint_of_s3_alone_goes_first(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """As with AWS's own tools; the requests are path style."""
    web, other = serve(found), serve(found)
    context = make_context(AWS_ENDPOINT_URL_S3=web.url, AWS_ENDPOINT_URL=other.url, **KEYS)
    await fetch("s3://bucket/code.zip", target, context, field=FIELD)
    assert (web.seen[0].path, other.seen) == ("/bucket/code.zip", [])


@pytest.mark.parametrize("uri", ["s3://bucket/none.zip", "s3://nobody/none.zip"])
async def test_a_missing_object_is_permanent(
    s3: S3, make_context: MakeContext, target: Path, uri: str
) -> None:
    """Key or bucket."""
    with pytest.raises(DownloadError, match="no such object") as caught:
        await fetch(uri, target, make_context(AWS_ENDPOINT_URL=s3.url, **KEYS), field=FIELD)
    assert caught.value.retry is Retry.PERMANENT
    assert names(target.parent) == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, DownloadError),
        (401, DownloadError),
        (403, DownloadError),
        (500, NetworkError),
        (503, NetworkError),
    ],
)
async def test_an_error_of_the_store_is_permanent_or_passing(
    serve: Serve, make_context: MakeContext, target: Path, status: int, error: type[DownloadError]
) -> None:
    """And what the store wrote is not passed on."""
    web = serve(lambda request: request.answer(b"<Error>CANARY http://host/?sig=CANARY</Error>", status))
    context = make_context(AWS_ENDPOINT_URL=web.url, **KEYS)
    for work in (
        fetch("s3://bucket/code.zip", target, context, field=FIELD),
        validator("s3://bucket/code.zip", context, field=FIELD),
    ):
        with pytest.raises(DownloadError) as caught:
            await work
        assert type(caught.value) is error
        assert "CANARY" not in str(caught.value)
    assert names(target.parent) == []


async def test_a_truncated_object_may_be_tried_again(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """No partial file stays."""
    web = serve(lambda request: request.answer(BODY, length=len(BODY) + 1, **OBJECT))
    with pytest.raises(NetworkError):
        await fetch("s3://b/code.zip", target, make_context(AWS_ENDPOINT_URL=web.url, **KEYS), field=FIELD)
    assert names(target.parent) == []


async def test_a_store_that_is_not_there_may_come_back(make_context: MakeContext, target: Path) -> None:
    """A refused connection."""
    context = make_context(AWS_ENDPOINT_URL="http://127.0.0.1:9", **KEYS)
    with pytest.raises(NetworkError, match="refused"):
        await fetch("s3://bucket/code.zip", target, context, field=FIELD)


async def test_without_credentials_the_access_is_anonymous(
    serve: Serve, make_context: MakeContext, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in stock; whatever the daemon's own environment holds stays with the daemon."""
    for name, value in {**KEYS, "AWS_SESSION_TOKEN": "mine", "AWS_REGION": "xx-mine-1"}.items():
        monkeypatch.setenv(name, value)
    web = serve(found)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    await fetch("s3://bucket/code.zip", target, make_context(AWS_ENDPOINT_URL=web.url), field=FIELD)
    assert content(target) == BODY
    assert web.seen[0].headers["Authorization"] is None
    assert web.seen[0].headers["x-amz-security-token"] is None


async def test_the_shared_files_of_aws_are_read(
    serve: Serve, make_context: MakeContext, target: Path, tmp_path: Path
) -> None:
    """Keys, region and endpoint of the profile in use; the variables go first."""
    web = serve(found)
    write(tmp_path / "credentials", b"[work]\naws_access_key_id = FROMFILE\naws_secret_access_key = x%y\n")
    write(tmp_path / "config", f"[profile work]\nregion = eu-x-1\nendpoint_url = {web.url}\n".encode())
    files = {
        "AWS_PROFILE": "work",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    await fetch("s3://bucket/code.zip", target, make_context(**files), field=FIELD)
    remove(target)
    await fetch(
        "s3://bucket/code.zip", target, make_context(**files, **KEYS, AWS_REGION="us-y-2"), field=FIELD
    )
    scopes = [seen.headers["Authorization"].split("Credential=")[1].split(",")[0] for seen in web.seen]
    assert [scope.split("/")[::2][:2] for scope in scopes] == [["FROMFILE", "eu-x-1"], ["AKIDTEST", "us-y-2"]]


async def test_the_role_of_the_machine_is_used(serve: Serve, make_context: MakeContext, target: Path) -> None:
    """Where the metadata service has one."""

    def metadata(request: Request) -> None:
        keys = {"AccessKeyId": "FROMROLE", "SecretAccessKey": "s", "Token": "t", "Code": "Success"}
        answers = {
            "/latest/api/token": "token",
            "/latest/meta-data/iam/security-credentials/": "role",
            "/latest/meta-data/iam/security-credentials/role": json.dumps(
                {**keys, "Expiration": "2999-01-01T00:00:00Z"}
            ),
        }
        request.answer(answers[request.path].encode())

    service, web = serve(metadata), serve(found)
    context = make_context(
        AWS_EC2_METADATA_DISABLED="false",
        AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url,
        AWS_ENDPOINT_URL=web.url,
    )
    await fetch("s3://bucket/code.zip", target, context, field=FIELD)
    assert "Credential=FROMROLE/" in web.seen[0].headers["Authorization"]


async def test_a_bucket_of_another_region_is_found(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """S3 tells the region in a header; boto3 turns to it too."""

    def regional(request: Request) -> None:
        if "/eu-x-1/" in request.headers.get("Authorization", ""):
            request.answer(BODY, **OBJECT)
        else:
            request.answer(b"<Error/>", 301, x_amz_bucket_region="eu-x-1")

    web = serve(regional)
    await fetch("s3://bucket/code.zip", target, make_context(AWS_ENDPOINT_URL=web.url, **KEYS), field=FIELD)
    assert content(target) == BODY


async def test_a_redirect_without_a_region_is_told(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """With what to set."""
    web = serve(lambda request: request.answer(b"<Error/>", 301))
    with pytest.raises(DownloadError, match="another region") as caught:
        await fetch("s3://b/code.zip", target, make_context(AWS_ENDPOINT_URL=web.url, **KEYS), field=FIELD)
    assert "AWS_REGION" in caught.value.remedy


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
async def test_a_private_authority_of_a_store_is_trusted_if_named(
    serve: Serve, make_context: MakeContext, target: Path, authority: Authority, variable: str
) -> None:
    """And only then; the failure is permanent and says what to set."""
    web = serve(found, authority.certificate)
    with pytest.raises(DownloadError, match="not trusted") as caught:
        await fetch("s3://b/code.zip", target, make_context(AWS_ENDPOINT_URL=web.url, **KEYS), field=FIELD)
    assert caught.value.retry is Retry.PERMANENT
    context = make_context(AWS_ENDPOINT_URL=web.url, **KEYS, **{variable: str(authority.ca)})
    await fetch("s3://b/code.zip", target, context, field=FIELD)
    assert content(target) == BODY


async def test_an_object_of_google_arrives(serve: Serve, make_context: MakeContext, target: Path) -> None:
    """From an emulator, and with a token of the environment from a custom address."""
    web = serve(found)
    await fetch("gs://bucket/a/code.zip", target, make_context(STORAGE_EMULATOR_HOST=web.url), field=FIELD)
    assert content(target) == BODY
    assert (unquote(web.seen[0].path), web.seen[0].headers["Authorization"]) == ("/bucket/a/code.zip", None)
    remove(target)
    context = make_context(GOOGLE_BASE_URL=web.url, GOOGLE_BEARER_TOKEN="token")
    await fetch("gs://bucket/a/code.zip", target, context, field=FIELD)
    assert web.seen[1].headers["Authorization"] == "Bearer token"


@pytest.mark.parametrize(
    ("uri", "environment"),
    [
        ("azure://container/a/code.zip", {"AZURE_STORAGE_ACCOUNT": "account"}),
        ("abfss://container@account.dfs.core.windows.net/a/code.zip", {}),
    ],
)
async def test_an_object_of_azure_arrives(
    serve: Serve, make_context: MakeContext, target: Path, uri: str, environment: dict[str, str]
) -> None:
    """The account comes from the variable or from the URI; the key signs."""
    web = serve(found)
    context = make_context(AZURE_STORAGE_ENDPOINT=web.url, AZURE_STORAGE_ACCOUNT_KEY=AZURE_KEY, **environment)
    done = await fetch(uri, target, context, field=FIELD)
    assert content(target) == BODY
    assert web.seen[0].path == "/container/a/code.zip"
    assert web.seen[0].headers["Authorization"].startswith("SharedKey account:")
    assert done.validator == await validator(uri, context, field=FIELD) == 'etag "e1"'


async def test_azure_without_an_account_says_what_is_missing(make_context: MakeContext, target: Path) -> None:
    """As stock does."""
    with pytest.raises(DownloadError, match="AZURE_STORAGE_ACCOUNT is not set"):
        await fetch("azure://container/code.zip", target, make_context(), field=FIELD)


@pytest.mark.parametrize(
    "environment",
    [
        {"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent.json"},
        {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "CANARY"}'},
    ],
)
async def test_credentials_that_cannot_be_read_are_told(
    make_context: MakeContext, target: Path, environment: dict[str, str]
) -> None:
    """Permanent: nothing changes by itself."""
    with pytest.raises(DownloadError) as caught:
        await fetch("gs://bucket/code.zip", target, make_context(**environment), field=FIELD)
    assert caught.value.retry is Retry.PERMANENT
    assert "CANARY" not in str(caught.value)
