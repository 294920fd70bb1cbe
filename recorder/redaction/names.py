"""The names of secrets: one table, for headers, parameters of a query or form, and members of JSON.

A name is looked up as `plain` writes it, so that `X-Api-Key`, `x_api_key` and `xApiKey` are one.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SECRET = frozenset(
    {
        *("authorization", "proxyauthorization", "authorizationtoken", "apikeystring", "apikeysecret"),
        *("idtoken", "bearertoken", "oauthtoken", "sastoken", "personalaccesstoken"),
        *("secret", "passwd", "passphrase", "sharedaccesskey", "accountkey", "credentialsecret", "clientassertion"),
        *("xamzsignature", "xamzcredential", "xgoogsignature", "xgoogcredential"),
        *("cookie", "setcookie", "jwt", "xfunctionskey"),
    }
)
"""Secret in a header, a query and JSON."""

_SECRET_ENDS = (
    *("apikey", "accesstoken", "refreshtoken", "authtoken", "apitoken", "sessiontoken", "securitytoken"),
    *("clientsecret", "password", "secretkey", "secretaccesskey", "privatekey", "subscriptionkey", "connectionstring"),
)
"""So are names that end like this (`x-api-key`, `encoded_api_key`, `awsSecretAccessKey`)."""

_IN_QUERY = frozenset(
    {
        *("auth", "code", "codeverifier", "key", "token", "sig", "signature", "pass", "pwd", "pw", "otp", "assertion"),
        *("credential", "credentials", "awsaccesskeyid", "googleaccessid"),
    }
)
"""Secret in a query or form, where nothing else is called so. In JSON they are what people and models call many things."""

ALSO_ORDINARY = frozenset({"code", "key", "auth", "pass", "pw"})
"""Of these, names that pages of all kinds have: in a URL that somebody cites, only a value that looks like a secret is one."""

CALLED_WITH = frozenset({"tools", "toolapprovals", "mcp", "mcpservers", "mcptoolresources", "connectors"})
"""Members of JSON whose entries say with what a tool of another server is called (OpenAI, Anthropic, Azure, Gemini)."""

CALLED_WITH_SECRETS = frozenset({"headers", "env"})
"""What is secret there, as a whole, beside what is so everywhere."""

AUTHENTICATION = frozenset(
    {
        *("authentication", "auth", "authconfig", "apiauth", "apikeyconfig", "oauthconfig", "httpbasicauthconfig"),
        *("credential", "credentials", "domainsecrets", "secrets"),
    }
)
"""Members of JSON that hold secrets, under whatever names, beside what says of which kind and whose they are."""

NOT_SECRET = frozenset(
    {
        *("type", "kind", "authtype", "scheme", "name", "id", "domain", "connectionid", "managedidentityresourceid"),
        *("httpelementlocation", "scope", "scopes", "tokenurl", "authorizationurl", "audience", "tenantid"),
    }
)
"""What those others are called (Azure's `data_sources[].parameters.authentication`, OpenAI's `domain_secrets`)."""

OPAQUE = frozenset(
    {
        *("properties", "patternproperties", "schema", "inputschema", "outputschema", "jsonschema", "responseschema"),
        *("parametersjsonschema", "responsejsonschema", "$defs", "definitions", "parameters"),
        *("arguments", "args", "input", "output", "result", "results"),
    }
)
"""Members below which names are a schema's, a model's or a tool's own, and say nothing."""

ITEMS = frozenset({"input", "output", "result", "results"})
"""Of these, lists hold items of the API."""

SOURCES = frozenset({"datasources", "datasource", "embeddingdependency"})
"""Members whose `parameters` are those of a service that is called, and no schema (Azure OpenAI On Your Data)."""

TEXTS = frozenset(
    {
        *("text", "content", "prompt", "instructions", "system", "delta", "arguments", "input", "output", "thinking"),
        *("refusal", "transcript", "partialjson", "message", "query"),
    }
)
"""Members whose strings are somebody's words, also where they are a URL or JSON."""


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """In lower case, without `-` and `_`."""
    return name.lower().replace("-", "").replace("_", "")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what stands under such a name is secret in a header, a query and JSON alike."""
    known = plain(name)
    return known in _SECRET or known.endswith(_SECRET_ENDS)


@lru_cache(maxsize=4096)
def is_secret_parameter(name: str) -> bool:
    """The same of a parameter of a query or form."""
    return plain(name) in _IN_QUERY or is_secret(name)


def is_unlikely(word: str) -> bool:
    """Whether a word looks like a secret: one of eight characters or more with letters and digits, or any of twenty."""
    return len(word) >= LONG or (len(word) >= SHORT and _MIXED.match(word) is not None)


SHORT, LONG = 8, 20

_MIXED = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])")


@lru_cache(maxsize=4096)
def is_telling(name: str) -> bool:
    """Whether there may be secrets in JSON that has a member of this name."""
    return is_secret(name) or plain(name) in AUTHENTICATION or plain(name) in CALLED_WITH_SECRETS
