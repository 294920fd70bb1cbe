"""`messages`: the messages of each run, and the user's that a stream shows."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from recorder import jsontext
from recorder.database import UTCTime, metadata
from recorder.projections.runs import text, utc
from recorder.protocols.payload import as_object
from recorder.protocols.view import RunView
from recorder.steps import Message

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("run_key", sa.Text, primary_key=True),
    sa.Column("message_id", sa.Text, primary_key=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("thread_id", sa.Text),
    sa.Column("assistant_id", sa.Text),
    sa.Column("role", sa.Text),
    sa.Column("status", sa.Text),
    sa.Column("created_at", UTCTime),
    sa.Column("completed_at", UTCTime),
    sa.Column("incomplete_at", UTCTime),
    sa.Column("incomplete_reason", sa.Text),
    sa.Column("text", sa.Text, nullable=False),  # the text parts and refusals, in order
    sa.Column("object", sa.Text, nullable=False),  # JSON: the Message object, final or as accumulated so far
    sa.Index("messages_message_id", "message_id"),
)

TABLES = (messages,)


def rows(view: RunView) -> dict[sa.Table, list[dict[str, Any]]]:
    return {
        messages: [
            {
                "run_key": view.key,
                "message_id": message.id,
                "ordinal": ordinal,
                "run_id": view.key if view.is_run else None,
                **{key: text(message.object.get(key)) for key in ("thread_id", "assistant_id", "role", "status")},
                **{key: utc(message.object.get(key)) for key in ("created_at", "completed_at", "incomplete_at")},
                "incomplete_reason": text(as_object(message.object.get("incomplete_details")).get("reason")),
                "text": text(_text(message.object)) or "",
                "object": jsontext.dumps(message.object),
            }
            for ordinal, message in enumerate(view.messages)
        ]
    }


def _text(object: dict[str, Any]) -> str:
    content = object.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return Message.model_construct(None, content=parts).text
