"""`dimml push`: upload a bundle to a repository of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimml import __version__
from dimml.bundle import Bundle
from dimml.errors import DimmlError, UsageError
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.progress import print_status
from export.files import bundle_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
"""The branch that every repository of the hub has."""

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""The form of "OWNER/NAME". The hub has further rules, such as a maximum length."""

_TOKEN_REMEDY = (
    "set HF_TOKEN to a token with write access, or store one with `hf auth login`; "
    "https://huggingface.co/settings/tokens makes tokens"
)
_REMEDIES = {
    401: f"the hub does not accept the token: {_TOKEN_REMEDY}",
    403: "the token may not write there: use a token with write access to this owner",
    404: "there is no such owner, repository or branch, or the token may not see it",
    413: "a file is larger than the hub accepts",
    429: "too many requests: wait some minutes and run the same command again",
}
"""What a status of the hub means, and what to do."""


@dataclass(frozen=True)
class PushedBundle:
    """Where a bundle is on the hub.

    Attributes:
        bundle: Id of the bundle.
        repository: "OWNER/NAME".
        revision: Branch of the commit.
        commit: Id of the commit.
        url: Page of the repository at this branch.
        files: Number of files of the bundle.
        bytes: Size of these files.
    """

    bundle: str
    repository: str
    revision: str
    commit: str
    url: str
    files: int
    bytes: int


def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository; created if it is missing.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create a repository that only its owner sees.")
    ] = False,
    revision: Annotated[
        str, typer.Option(help="Branch to commit to; created if it is missing.")
    ] = MAIN,
    message: Annotated[
        str | None, typer.Option(help="Message of the commit; default: the id of the bundle.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Upload a bundle to a model repository of the Hugging Face Hub, in one commit.

    The hub needs a token with write access: the variable HF_TOKEN, or `hf auth login`. Prints the
    URL of the repository. `hf download OWNER/NAME --local-dir BUNDLE` downloads the bundle.

    Examples:
        dimml push runs/digits/bundle jane/digits --private

        dimml push runs/digits/int8 jane/digits --revision int8 --message "8 bits"
    """
    with sigterm_as_ctrl_c():
        pushed = push_bundle(bundle, repository, private, revision, message)
    typer.echo(json.dumps(asdict(pushed)) if as_json else pushed.url)


def push_bundle(
    bundle: Path,
    repository: str,
    private: bool = False,
    revision: str = MAIN,
    message: str | None = None,
) -> PushedBundle:
    """Upload the files of a bundle to a repository, or nothing on an error.

    Args:
        bundle: Folder of the bundle.
        repository: "OWNER/NAME" of a model repository, which is created if it is missing.
        private: Whether a new repository is private.
        revision: Branch to commit to, which is created if it is missing.
        message: Message of the commit; None for the id of the bundle.

    Raises:
        BundleError: If the folder is not a valid bundle, or a file of it is a link.
        UsageError: If the name is not valid, or `private` is set and the repository is public.
        DimmlError: If there is no token, or the hub refuses the upload or cannot be reached.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"{repository!r} is not the name of a repository: write OWNER/NAME, where the owner is "
            "your user name or an organisation, with letters, digits, and - _ . between them"
        )
    loaded = Bundle.load(bundle)
    files = bundle_files(loaded)
    # Importing the hub's client takes a second.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi(library_name="dimml", library_version=__version__)
    url = f"{api.endpoint}/{repository}"
    size = sum(path.stat().st_size for path in files)
    try:
        api.token = _find_token()
        print_status(f"{loaded.id}: {len(files)} files, {size / 1e6:.1f} MB, to {url}")
        _print_examples(loaded)
        _prepare_repository(api, repository, private, revision)
        commit = _commit(api, files, repository, revision, message or f"Upload {loaded.id}")
    except DimmlError:
        raise
    except HFValidationError as error:
        raise UsageError(f"{repository!r} is no name of a repository: {error}") from error
    # The client raises errors of its own, of its HTTP library, of its storage and of files.
    except Exception as error:
        raise DimmlError(_explain(error, url)) from error
    if revision != MAIN:
        url += f"/tree/{revision}"
    return PushedBundle(loaded.id, repository, revision, commit, url, len(files), size)


def _find_token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise DimmlError(f"the hub needs a token to upload: {_TOKEN_REMEDY}")
    return token


def _print_examples(bundle: Bundle) -> None:
    """Say that all readers of the repository will see rows of the user's data."""
    if count := len(bundle.manifest.examples):
        print_status(
            f"the bundle holds {count} examples, which are rows of the data; `dimml export` "
            "without --examples leaves them out"
        )


def _prepare_repository(api: HfApi, repository: str, private: bool, revision: str) -> None:
    """Create the repository and the branch if they are missing."""
    api.create_repo(repository, private=private or None, exist_ok=True)
    # The hub ignores `private` for a repository that exists.
    if private and not api.model_info(repository).private:
        raise UsageError(
            f"{repository} exists and is public, so --private would upload to everyone: make it "
            "private in its settings, or choose another name"
        )
    if revision != MAIN:
        api.create_branch(repository, branch=revision, exist_ok=True)


def _commit(api: HfApi, files: list[Path], repository: str, revision: str, message: str) -> str:
    """Upload files in one commit, and return its id."""
    from huggingface_hub import CommitOperationAdd

    additions = [CommitOperationAdd(path.name, path) for path in files]
    with warnings.catch_warnings():
        # The hub reminds of metadata at the top of README.md, which are optional.
        warnings.filterwarnings("ignore", "Warnings while validating metadata", UserWarning)
        commit = api.create_commit(repository, additions, commit_message=message, revision=revision)
    return commit.oid


def _explain(error: Exception, url: str) -> str:
    """Return one line on why an upload failed, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    # The error that names a file has the answer of the hub, or of the network, as its cause.
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for answer in chain:
        if isinstance(answer, HfHubHTTPError):
            status = answer.response.status_code
            reasons = [text for text in (_REMEDIES.get(status), answer.server_message) if text]
            reason = " ".join("; ".join(reasons or [_first_line(answer)]).split())
            return f"{url}: the hub answered {status}: {reason}"
    ends = dict.fromkeys(map(_first_line, (chain[0], chain[-1])))
    return (
        f"{url}: the upload failed: {': '.join(ends)}; check the network and run the same "
        "command again, which sends no file twice"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
