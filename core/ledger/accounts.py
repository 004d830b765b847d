"""Accounts, sessions and tokens. Secrets come here as digests or hashes only."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.accounts import Account, ApiToken, Role, WebSession, lesser
from core.errors import AccountError, NotFoundError
from core.ledger.rows import insert_unless_there
from core.schema import AccountRow, ApiTokenRow, SignInFailureRow, WebSessionRow

# Being seen is written down so often at most: a read must not become a write each time.
_SEEN_EVERY = timedelta(minutes=1)


class Accounts:
    """Reads and writes who may sign in."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def any(self) -> bool:
        """Whether there is any account."""
        return self._session.scalar(select(AccountRow.id).limit(1)) is not None

    def all(self) -> list[Account]:
        """Every account, by name."""
        return [
            account_value(row)
            for row in self._session.scalars(select(AccountRow).order_by(AccountRow.name))
        ]

    def get(self, name: str) -> Account:
        """One account.

        Raises:
            NotFoundError: nobody is called so.
        """
        return account_value(self._row(name))

    def password_hash(self, name: str) -> tuple[Account, str] | None:
        """An account and the hash of its password; None if nobody is called so."""
        row = self._session.scalars(select(AccountRow).where(AccountRow.name == name)).first()
        return (account_value(row), row.password_hash) if row else None

    def add(self, name: str, role: Role, password_hash: str, now: datetime) -> Account:
        """Make an account.

        Raises:
            AccountError: the name is taken.
        """
        made = insert_unless_there(
            self._session,
            AccountRow,
            name=name,
            role=role,
            password_hash=password_hash,
            disabled=False,
            created_at=now,
        )
        if not made:
            raise AccountError(f"somebody is called {name!r} already")
        return self.get(name)

    def add_first(self, name: str, password_hash: str, now: datetime) -> Account:
        """Make the first account, an administrator's.

        Raises:
            AccountError: there is an account already.
        """
        if self.any():
            raise AccountError("there is an account already; sign in")
        return self.add(name, Role.ADMINISTRATOR, password_hash, now)

    def set_password(self, name: str, password_hash: str) -> None:
        """Change a password; everybody who is signed in under the name is signed out.

        Raises:
            NotFoundError: nobody is called so.
        """
        row = self._row(name)
        row.password_hash = password_hash
        self._sign_out_all(row.id)

    def rehashed(self, name: str, earlier: str, password_hash: str) -> None:
        """Keep a newer hash of the same password; nobody is signed out."""
        self._session.execute(
            update(AccountRow)
            .where(AccountRow.name == name, AccountRow.password_hash == earlier)
            .values(password_hash=password_hash)
        )

    def set_role(self, name: str, role: Role) -> None:
        """Change what somebody may do.

        Raises:
            NotFoundError: nobody is called so.
            AccountError: it is the last administrator.
        """
        row = self._row(name)
        if role != Role.ADMINISTRATOR:
            self._not_the_last(row)
        row.role = role

    def disable(self, name: str, disabled: bool) -> None:
        """Lock an account, or let it in again. Its sessions end at once.

        Raises:
            NotFoundError: nobody is called so.
            AccountError: it is the last administrator.
        """
        row = self._row(name)
        if disabled:
            self._not_the_last(row)
            self._sign_out_all(row.id)
        row.disabled = disabled

    def begin_session(
        self, account_id: int, digest: str, now: datetime, expires_at: datetime
    ) -> None:
        """Somebody signed in; ended sessions go."""
        self._session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
        self._session.add(
            WebSessionRow(
                account_id=account_id,
                digest=digest,
                began_at=now,
                seen_at=now,
                expires_at=expires_at,
            )
        )
        self._session.execute(
            update(AccountRow).where(AccountRow.id == account_id).values(last_sign_in_at=now)
        )

    def session(self, digest: str, now: datetime, idle: timedelta) -> WebSession | None:
        """The session of a cookie; None if it ended, was idle too long, or never was."""
        found = self._session.execute(
            select(WebSessionRow, AccountRow)
            .join(AccountRow, AccountRow.id == WebSessionRow.account_id)
            .where(
                WebSessionRow.digest == digest,
                WebSessionRow.expires_at > now,
                WebSessionRow.seen_at > now - idle,
                AccountRow.disabled.is_(False),
            )
        ).first()
        if found is None:
            return None
        row, account = found
        return WebSession(row.id, account_value(account), row.began_at, row.seen_at, row.expires_at)

    def seen(self, session_id: int, now: datetime) -> None:
        """A session was used."""
        self._session.execute(
            update(WebSessionRow)
            .where(WebSessionRow.id == session_id, WebSessionRow.seen_at < now)
            .values(seen_at=now)
        )

    def end_session(self, session_id: int) -> None:
        """Somebody signed out."""
        self._session.execute(delete(WebSessionRow).where(WebSessionRow.id == session_id))

    def add_token(
        self,
        account: str,
        name: str,
        role: Role,
        digest: str,
        now: datetime,
        expires_at: datetime | None = None,
    ) -> ApiToken:
        """Keep a token of an account; it never may more than its account.

        Raises:
            NotFoundError: nobody is called so.
            AccountError: the account may not do what the token should.
        """
        row = self._row(account)
        if not Role(row.role).may(role):
            raise AccountError(f"{account} is {row.role}: a token of theirs cannot be {role}")
        token = ApiTokenRow(
            account_id=row.id,
            name=name,
            role=role,
            digest=digest,
            created_at=now,
            expires_at=expires_at,
        )
        self._session.add(token)
        self._session.flush()
        return _token_value(token, row.name)

    def tokens(self, account: str | None = None) -> list[ApiToken]:
        """Tokens, the newest first; of one account, or all."""
        query = (
            select(ApiTokenRow, AccountRow.name)
            .join(AccountRow, AccountRow.id == ApiTokenRow.account_id)
            .order_by(ApiTokenRow.id.desc())
        )
        if account is not None:
            query = query.where(AccountRow.name == account)
        return [_token_value(row, name) for row, name in self._session.execute(query)]

    def token(self, digest: str, now: datetime) -> tuple[ApiToken, Role] | None:
        """A token that works now, and the role that it has; None otherwise."""
        found = self._session.execute(
            select(ApiTokenRow, AccountRow)
            .join(AccountRow, AccountRow.id == ApiTokenRow.account_id)
            .where(
                ApiTokenRow.digest == digest,
                ApiTokenRow.revoked_at.is_(None),
                ApiTokenRow.expires_at.is_(None) | (ApiTokenRow.expires_at > now),
                AccountRow.disabled.is_(False),
            )
        ).first()
        if found is None:
            return None
        row, account = found
        return _token_value(row, account.name), lesser(Role(row.role), Role(account.role))

    def token_used(self, token_id: int, now: datetime) -> None:
        """A token was used."""
        self._session.execute(
            update(ApiTokenRow).where(ApiTokenRow.id == token_id).values(last_used_at=now)
        )

    def revoke(self, token_id: int, now: datetime) -> ApiToken:
        """End a token; again is no error.

        Raises:
            NotFoundError: there is no such token.
        """
        row = self._session.get(ApiTokenRow, token_id)
        if row is None:
            raise NotFoundError(f"no token has the number {token_id}")
        row.revoked_at = row.revoked_at or now
        return _token_value(row, self._session.get_one(AccountRow, row.account_id).name)

    @staticmethod
    def worth_noting(seen_at: datetime | None, now: datetime) -> bool:
        """Whether it is time to write down again that something was used."""
        return seen_at is None or now - seen_at >= _SEEN_EVERY

    def _sign_out_all(self, account_id: int) -> None:
        self._session.execute(delete(WebSessionRow).where(WebSessionRow.account_id == account_id))

    def _not_the_last(self, row: AccountRow) -> None:
        if row.role != Role.ADMINISTRATOR or row.disabled:
            return
        # every administrator's row is locked: two that disable each other wait for one another
        left = self._session.scalars(
            select(AccountRow.id)
            .where(AccountRow.role == Role.ADMINISTRATOR, AccountRow.disabled.is_(False))
            .order_by(AccountRow.id)
            .with_for_update()
        ).all()
        if set(left) <= {row.id}:
            raise AccountError(
                f"{row.name} is the last administrator", remedy="Make another one first."
            )

    def _row(self, name: str) -> AccountRow:
        row = self._session.scalars(select(AccountRow).where(AccountRow.name == name)).first()
        if row is None:
            raise NotFoundError(f"nobody is called {name!r}", remedy="See `sentinode user list`.")
        return row


class SignInThrottle:
    """How often a sign-in failed lately, by key (a name, an address), over all nodes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def blocked_until(self, keys: tuple[str, ...], now: datetime) -> datetime | None:
        """Until when no sign-in is tried for any of `keys`; None when it may be now."""
        return self._session.scalar(
            select(func.max(SignInFailureRow.blocked_until)).where(
                SignInFailureRow.key.in_(keys), SignInFailureRow.blocked_until > now
            )
        )

    def failed(self, key: str, free: int, longest: timedelta, now: datetime) -> None:
        """Count a failure; after `free` of them each blocks twice as long as the one before.

        Failures that are older than a day are forgotten.
        """
        insert_unless_there(self._session, SignInFailureRow, key=key, failures=0, at=now)
        row = self._session.scalars(
            select(SignInFailureRow)
            .where(SignInFailureRow.key == key)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
        if now - row.at > timedelta(days=1):
            row.failures = 0
        row.failures, row.at = row.failures + 1, now
        over = row.failures - free
        if over > 0:
            row.blocked_until = now + min(longest, timedelta(seconds=2 ** min(over, 20)))

    def well(self, keys: tuple[str, ...], now: datetime) -> None:
        """A sign-in worked: its failures are forgotten, and all those of days ago."""
        self._session.execute(
            delete(SignInFailureRow).where(
                SignInFailureRow.key.in_(keys) | (SignInFailureRow.at < now - timedelta(days=1))
            )
        )


def account_value(row: AccountRow) -> Account:
    """A row as a value."""
    return Account(
        row.id, row.name, Role(row.role), row.created_at, row.disabled, row.last_sign_in_at
    )


def _token_value(row: ApiTokenRow, account: str) -> ApiToken:
    return ApiToken(
        row.id,
        account,
        row.name,
        Role(row.role),
        row.created_at,
        row.expires_at,
        row.last_used_at,
        row.revoked_at,
    )
