"""The routes of accounts as data: opening and entering them, their sessions and their keys."""

from __future__ import annotations

from parhelion.api import account_keys, account_ways, accounts, sign_in
from parhelion.api.admin import Nothing
from parhelion.api.operation import TEXT, Operation, Parameter

_CREDENTIAL = {"type": "string", "minLength": 1, "maxLength": accounts.ID_LIMIT_CHARS}

_SIGN_IN = (
    Operation(
        "post",
        "/v1/sign-in/challenge",
        "sign-in.challenge",
        "A text for a wallet to sign, good once and for five minutes.",
        sign_in.ChallengeBody,
        sign_in.ChallengeAsk,
        errors=(404,),
    ),
    Operation(
        "post",
        "/v1/sign-in",
        "sign-in",
        "A session for a signed text; also set as a cookie.",
        sign_in.SignedInBody,
        sign_in.SignedMessage,
        errors=(401, 404),
    ),
    Operation(
        "post",
        "/v1/sign-in/recovery",
        "sign-in.recovery",
        "A session for a recovery code; also set as a cookie.",
        sign_in.SignedInBody,
        accounts.RecoveryCode,
        errors=(401,),
    ),
    Operation(
        "post",
        "/v1/sign-in/passkey/challenge",
        "sign-in.passkey.challenge",
        "What a browser is asked to sign in with a passkey, good once and for five minutes.",
        accounts.OptionsBody,
        Nothing,
    ),
    Operation(
        "post",
        "/v1/sign-in/passkey",
        "sign-in.passkey",
        "A session for a passkey's answer; also set as a cookie.",
        sign_in.SignedInBody,
        accounts.PasskeyAnswer,
        errors=(401,),
    ),
)

_SESSIONS = (
    Operation(
        "get",
        "/v1/session",
        "session",
        "Whose session this is, and which ways lead back to its account.",
        sign_in.WhoBody,
        errors=(401,),
    ),
    Operation(
        "delete",
        "/v1/session",
        "session.end",
        "Sign out.",
        sign_in.SignedOutBody,
        errors=(401,),
    ),
)

_ACCOUNT = (
    Operation(
        "post",
        "/v1/accounts/recovery",
        "accounts.recovery",
        "Open an account; its recovery code is shown once, its session is set as a cookie.",
        accounts.NewAccountBody,
        Nothing,
        status=201,
    ),
    Operation(
        "post",
        "/v1/accounts/passkey/challenge",
        "accounts.passkey.challenge",
        "What a browser is asked for a new passkey, good once and for five minutes.",
        accounts.OptionsBody,
        Nothing,
        security="optional",
    ),
    Operation(
        "post",
        "/v1/accounts/passkey",
        "accounts.passkey",
        "Open an account with a new passkey, or add it to the account of the session.",
        accounts.AccountBody,
        accounts.NewPasskey,
        status=201,
        security="optional",
        errors=(401, 409),
    ),
    Operation(
        "post",
        "/v1/account/recovery",
        "account.recovery",
        "A new recovery code for the account of the session, good beside the old one until it is "
        "confirmed.",
        accounts.RecoveryCodeBody,
        Nothing,
        security="key",
    ),
    Operation(
        "put",
        "/v1/account/recovery",
        "account.recovery.confirm",
        "Say that the new recovery code is kept: the old one is void, and every other sign-in "
        "ends.",
        account_ways.EndedBody,
        accounts.RecoveryCode,
        security="key",
        errors=(409,),
    ),
    Operation(
        "post",
        "/v1/wallets/link",
        "wallets.link",
        "Let one more wallet spend from the account of the session.",
        sign_in.WalletsBody,
        sign_in.SignedMessage,
        security="key",
        errors=(404, 409),
    ),
)

_KEYS = (
    Operation(
        "get",
        "/v1/account/keys",
        "account.keys",
        "The API keys of the account.",
        account_keys.OwnKeysBody,
        security="key",
    ),
    Operation(
        "post",
        "/v1/account/keys",
        "account.keys.create",
        "Make a key of the account of the session, shown once.",
        account_keys.NewOwnKeyBody,
        account_keys.NewOwnKey,
        status=201,
        security="key",
        errors=(409,),
    ),
    Operation(
        "delete",
        "/v1/account/keys/{id}",
        "account.keys.revoke",
        "Stop a key of the account for ever: by a session, or by the key itself.",
        account_keys.OwnKeyBody,
        parameters=(Parameter("id", "path", "`key_…`.", TEXT),),
        security="key",
        errors=(404,),
    ),
)

_WAYS = (
    Operation(
        "get",
        "/v1/account/passkeys",
        "account.passkeys",
        "The passkeys of the account of the session.",
        account_ways.PasskeysBody,
        security="key",
    ),
    Operation(
        "delete",
        "/v1/account/passkeys/{id}",
        "account.passkeys.remove",
        "Let a passkey open the account no more; the last way in stays.",
        account_ways.PasskeysBody,
        parameters=(Parameter("id", "path", "The passkey's id in base64url.", _CREDENTIAL),),
        security="key",
        errors=(404, 409),
    ),
    Operation(
        "delete",
        "/v1/account/sessions",
        "account.sessions.end",
        "Sign out everywhere else: end every other sign-in of the account.",
        account_ways.EndedBody,
        security="key",
    ),
)

ACCOUNTS: tuple[Operation, ...] = (*_SIGN_IN, *_SESSIONS, *_ACCOUNT, *_KEYS, *_WAYS)
