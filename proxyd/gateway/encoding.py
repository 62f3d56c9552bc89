"""protobuf's JSON mapping as etcd's gateway uses it. Knows nothing of HTTP.

Names as in the .proto files, 64-bit numbers as strings, bytes in base64, enums by name; what is unset is left
out, what is unknown is passed over.
"""

import json
import re
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from proto import errors
from proto.errors import Status

_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


def parse(body: bytes, kind: type[Message]) -> list[Message]:
    """The JSON objects of a request's body, one after the other; none is an empty one. Raises Status."""
    try:
        text = body.decode().strip()
        if not text:
            return [kind()]
        messages = []
        position = 0
        decoder = json.JSONDecoder()
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            messages.append(_message(value, kind))
            while position < len(text) and text[position].isspace():
                position += 1
    except (ValueError, TypeError, json_format.ParseError, RecursionError) as error:
        raise Status(errors.INVALID_ARGUMENT, f"malformed request: {error}") from error
    return messages


def render(message: Message) -> str:
    return json.dumps(
        json_format.MessageToDict(message, preserving_proto_field_name=True), separators=(",", ":")
    )


def _message(value: Any, kind: type[Message]) -> Message:
    if value is None:
        return kind()
    if not isinstance(value, dict):
        raise ValueError("a JSON object is expected")
    _check_base64(value, kind.DESCRIPTOR)
    return json_format.ParseDict(value, kind(), ignore_unknown_fields=True)


def _check_base64(value: dict[str, Any], descriptor: Any) -> None:
    """Python's decoder drops characters that do not belong there, and so would write another key."""
    for name, content in value.items():
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is None or content is None:
            continue
        for item in content if isinstance(content, list) else [content]:
            if field.type == FieldDescriptor.TYPE_BYTES:
                if not isinstance(item, str):
                    raise ValueError(f"{name}: a string in base64 is expected")
                if not _BASE64.fullmatch(item) or len(item.rstrip("=")) % 4 == 1:
                    raise ValueError(f"{name}: not base64: {item[:40]!r}")
            elif field.message_type is not None and isinstance(item, dict):
                _check_base64(item, field.message_type)
