"""What S3's and boto3's errors mean to a person: one line, with what to do; or that another try may help."""

from __future__ import annotations

from botocore import exceptions
from botocore.exceptions import ClientError

from labeler.errors import StorageError
from labeler.storage.causes import asked_pause_s
from labeler.storage.failures import ARCHIVED, DENIED, INVALID, MISSING, Transient, Unreadable
from labeler.storage.redaction import redact
from labeler.storage.uris import one_line

_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.SSOError,
    exceptions.ProfileNotFound,
    exceptions.ConfigParseError,
)
_NOT_RENEWED = (exceptions.CredentialRetrievalError, exceptions.TokenRetrievalError)
_BAD_ADDRESS = (
    exceptions.InvalidEndpointDiscoveryConfigurationError,
    exceptions.EndpointProviderError,
    exceptions.InvalidRegionError,
    exceptions.UnsupportedS3ConfigurationError,
)
# A HEAD has no body, so that all it says of credentials that ran out is "400".
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "400"}
_RENEW = "renew the AWS credentials (their file, or the machine's role)"
_BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "AuthFailure"}
_DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden", "Unauthorized", "401", "403"}
_ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "307"}
_PASSING = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException",
            "RequestLimitExceeded", "TooManyRequests", "ConditionalRequestConflict", "OperationAborted", "BadDigest",
            "IncompleteBody", "BandwidthLimitExceeded", "RequestThrottled"}  # fmt: skip


def code_of(error: ClientError) -> str:
    """S3's error code; for a body-less answer (HEAD) the HTTP status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def has_expired(error: BaseException) -> bool:
    """Return the credentials ran out: a client that reads them again may have better ones."""
    return isinstance(error, ClientError) and code_of(error) in _EXPIRED


def explain(uri: str, error: BaseException) -> Exception:
    """Return the exception to raise instead: Transient when another try may help, else a StorageError."""
    shown = redact(uri)
    if isinstance(error, ClientError):
        return _explain_answer(shown, error)
    if isinstance(error, _NO_CREDENTIALS):
        return StorageError(
            f"{shown}: no usable AWS credentials ({one_line(error)}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role; "
            "for a public bucket set input.s3.unsigned=true"
        )
    if isinstance(error, _NOT_RENEWED):
        return _outdated(f"the AWS credentials could not be renewed: {one_line(error)}")
    if isinstance(error, exceptions.ParamValidationError):
        return Unreadable(f"{shown}: not a valid bucket or key ({one_line(error)})", INVALID)
    if isinstance(error, _BAD_ADDRESS):
        return StorageError(f"{shown}: not a valid bucket, region or endpoint ({one_line(error)})")
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageError(f"{shown}: its certificate is not trusted; set AWS_CA_BUNDLE to its authority's")
    return Transient(one_line(error))


def _outdated(message: str) -> Transient:
    """Credentials that somebody may renew before the tries are over."""
    return Transient(message, f"{_RENEW}, then run again", meanwhile=_RENEW)


def _explain_answer(shown: str, error: ClientError) -> Exception:
    code = code_of(error)
    answer = error.response.get("ResponseMetadata", {})
    status = int(answer.get("HTTPStatusCode", 0))
    bucket = shown.partition("://")[2].partition("/")[0]
    if code == "NotImplemented" or status == 501:
        return StorageError(f"{shown}: storage lacks what this request needs: {one_line(error)} (HTTP {status})")
    if code in _PASSING or status >= 500 or status in (408, 409, 429):
        return Transient(f"{code} (HTTP {status})", after_s=asked_pause_s(answer.get("HTTPHeaders", {})))
    if code in _EXPIRED:
        return _outdated(f"the AWS credentials have expired: {code} (HTTP {status})")
    if code == "NoSuchBucket":
        said = f"{shown}: bucket {bucket} does not exist; check its name, AWS_REGION and AWS_ENDPOINT_URL"
        return Unreadable(said, "missing bucket")  # of an address in a column nothing else is in question
    if code in ("NoSuchKey", "404", "NotFound", "NoSuchVersion"):
        return Unreadable(f"{shown}: no such object", MISSING)
    if code in _BAD_CREDENTIALS:
        return StorageError(f"{shown}: the AWS credentials are refused ({code}); renew or correct them")
    to = answer.get("HTTPHeaders", {}).get("location", "")
    if 300 <= status < 400 and to and "x-amz-bucket-region" not in answer["HTTPHeaders"]:
        return StorageError(
            f"{shown}: the endpoint redirects to {redact(to)} (HTTP {status}), which is not followed; "
            "set AWS_ENDPOINT_URL to the store itself"
        )
    if code in _ELSEWHERE:
        return StorageError(f"{shown}: bucket {bucket} is in another region ({code}); set AWS_REGION to it")
    if code == "InvalidObjectState":
        return Unreadable(f"{shown}: the object is archived; restore it first", ARCHIVED)
    if code in _DENIED:
        return Unreadable(
            f"{shown}: access denied ({code}); these credentials need permission to list, read or write there", DENIED
        )
    return StorageError(f"{shown}: storage answered {code} (HTTP {status}): {one_line(error)}")
