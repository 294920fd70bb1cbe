"""Secrets that are known by their look: keys and tokens whose makers gave them a beginning to be told by."""

from __future__ import annotations

from recorder.settings import Settings

PATTERNS = (
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter …
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\b(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{30,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\bhf_[A-Za-z0-9]{30,}",
    r"\bxox[abposr]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+",  # JSON Web Tokens
    r"(?i:\bBearer )[A-Za-z0-9._~+/-]{16,}=*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.+?)-----END [A-Z ]*PRIVATE KEY-----",
)


def with_known(settings: Settings) -> Settings:
    """These settings, and what is known to be secret redacted too."""
    more = tuple(pattern for pattern in PATTERNS if pattern not in settings.redact.patterns)
    redact = settings.redact.model_copy(update={"patterns": settings.redact.patterns + more})
    return settings.model_copy(update={"redact": redact})
