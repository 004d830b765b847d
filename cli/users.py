"""Who may use the pages and the HTTP interface: accounts and tokens."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.context import clock_time, console, load_settings, open_ledger

if TYPE_CHECKING:
    from core.accounts import Role
    from core.settings import Settings

app = typer.Typer(help="Accounts and tokens of the web pages.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens, for programs.", no_args_is_help=True)
app.add_typer(token_app, name="token")

_ACTOR = "command line"
_Name = Annotated[str, typer.Argument(help="Name of the account.")]
_FromInput = Annotated[
    bool, typer.Option("--stdin", help="Read the password from standard input, one line.")
]


@app.command()
def add(
    context: typer.Context,
    name: _Name,
    role: Annotated[str, typer.Option(help="viewer, operator or administrator.")] = "viewer",
    stdin: _FromInput = False,
) -> None:
    """Make an account; the password is asked for."""
    from core.clock import now
    from node.web.passwords import account_name, hash_password

    settings = load_settings(context)
    wanted, account = _role(role), account_name(name)
    hashed = hash_password(_password(stdin), settings.web.password_length)
    ledger = open_ledger(settings)
    with ledger.write() as work:
        made = work.accounts.add(account, wanted, hashed, now())
    _note(settings, made.name, f"account made, {made.role}")
    typer.echo(f"{made.name} may sign in, as {made.role}")


@app.command("list")
def list_accounts(context: typer.Context) -> None:
    """Every account."""
    with open_ledger(load_settings(context)).read() as work:
        accounts = work.accounts.all()
    table = Table()
    for column in ("name", "role", "last sign-in", "state"):
        table.add_column(column)
    for account in accounts:
        state = "disabled" if account.disabled else ""
        table.add_row(account.name, account.role, clock_time(account.last_sign_in_at), state)
    console.print(table)


@app.command()
def passwd(context: typer.Context, name: _Name, stdin: _FromInput = False) -> None:
    """Set another password; whoever is signed in under the name is signed out."""
    from node.web.passwords import account_name, hash_password

    settings = load_settings(context)
    account = account_name(name)
    ledger = open_ledger(settings)
    with ledger.read() as work:
        work.accounts.get(account)
    hashed = hash_password(_password(stdin), settings.web.password_length)
    with ledger.write() as work:
        work.accounts.set_password(account, hashed)
    _note(settings, account, "password changed")
    typer.echo(f"{account} has another password")


@app.command("role")
def set_role(
    context: typer.Context,
    name: _Name,
    role: Annotated[str, typer.Argument(help="viewer, operator or administrator.")],
) -> None:
    """Change what an account may do."""
    from node.web.passwords import account_name

    settings, wanted, account = load_settings(context), _role(role), account_name(name)
    with open_ledger(settings).write() as work:
        work.accounts.set_role(account, wanted)
    _note(settings, account, f"is {wanted} now")
    typer.echo(f"{account} is {wanted} now")


@app.command()
def disable(
    context: typer.Context,
    name: _Name,
    enable: Annotated[bool, typer.Option("--enable", help="Let it in again.")] = False,
) -> None:
    """Lock an account: its sessions end and its tokens stop working at once."""
    from node.web.passwords import account_name

    settings, account = load_settings(context), account_name(name)
    with open_ledger(settings).write() as work:
        work.accounts.disable(account, not enable)
    word = "enabled" if enable else "disabled"
    _note(settings, account, word)
    typer.echo(f"{account} is {word}")


@token_app.command("add")
def add_token(
    context: typer.Context,
    name: _Name,
    label: Annotated[str, typer.Argument(help="What the token is for.")],
    role: Annotated[str, typer.Option(help="What it may do at most.")] = "viewer",
    days: Annotated[float, typer.Option(min=0, help="Ends after so long; 0: never.")] = 0,
) -> None:
    """Make a token of an account. It is shown once."""
    from core.clock import now
    from node.web.passwords import TOKEN_PREFIX, account_name, digest_of, new_secret

    settings, account, wanted = load_settings(context), account_name(name), _role(role)
    secret = TOKEN_PREFIX + new_secret()
    ends = now() + timedelta(days=days) if days else None
    with open_ledger(settings).write() as work:
        made = work.accounts.add_token(
            account, label[:64], wanted, digest_of(secret), now(), expires_at=ends
        )
    _note(settings, account, f"token {made.id} made, {wanted}")
    typer.echo(secret)


@token_app.command("list")
def list_tokens(context: typer.Context) -> None:
    """Every token, the newest first; never its secret."""
    with open_ledger(load_settings(context)).read() as work:
        tokens = work.accounts.tokens()
    table = Table()
    for column in ("number", "account", "for", "role", "made", "used", "ends", "state"):
        table.add_column(column)
    for token in tokens:
        table.add_row(
            str(token.id),
            token.account,
            token.name,
            token.role,
            clock_time(token.created_at),
            clock_time(token.last_used_at),
            clock_time(token.expires_at),
            "revoked" if token.revoked_at else "",
        )
    console.print(table)


@token_app.command("revoke")
def revoke_token(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The token's number.")],
) -> None:
    """End a token."""
    from core.clock import now

    settings = load_settings(context)
    with open_ledger(settings).write() as work:
        token = work.accounts.revoke(number, now())
    _note(settings, token.account, f"token {token.id} revoked")
    typer.echo(f"token {token.id} of {token.account} no longer works")


def check_pages(settings: Settings) -> None:
    """See that the role web answers.

    Raises:
        WebError: it does not.
    """
    import httpx

    from core.errors import WebError

    scheme = "https" if settings.web.cert else "http"
    host = "127.0.0.1" if settings.web.host in {"0.0.0.0", "::"} else settings.web.host  # noqa: S104
    if ":" in host:
        host = f"[{host}]"
    url = f"{scheme}://{host}:{settings.web.port}/livez"
    try:
        # the certificate names the host that browsers use, not this one
        answer = httpx.get(url, timeout=5, verify=False)  # noqa: S501
    except httpx.HTTPError as error:
        raise WebError(f"the pages do not answer: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise WebError(f"the pages answer with status {answer.status_code}")


def _note(settings: Settings, account: str, what: str) -> None:
    from core.clock import now
    from node.web.audit import Audit, Happening

    audit = Audit(settings, now)
    audit.note(Happening.USERS, _ACTOR, subject=f"user:{account}", detail=what)
    audit.close()


def _role(text: str) -> Role:
    from core.accounts import Role
    from core.errors import AccountError

    try:
        return Role(text.lower())
    except ValueError as error:
        raise AccountError(
            f"no role is called {text!r}", remedy=f"There is: {', '.join(Role)}."
        ) from error


def _password(stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
