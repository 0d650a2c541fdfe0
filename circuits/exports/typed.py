"""Types that the exported files are made of, and how they are written."""

import json
from dataclasses import fields
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from sparsetrain.hooks import NODE_KINDS

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
NodeName = Annotated[str, Field(pattern=r"^blocks\.[0-9]+\.(attn|mlp)\.hook_[a-z]+:[0-9]+$")]
NodeKind = Annotated[str, Field(pattern=f"^({'|'.join(NODE_KINDS)})$")]


class Exported:
    """Base of the dataclasses of a file: its schema knows no other keys, and asks for those with a default too."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


def as_json(content: Exported, indent: int | None = 1) -> str:
    """A file's text, keys in the order of the fields.

    Raises:
        ValueError: a number that is not finite.
    """
    return json.dumps(content, indent=indent, allow_nan=False, default=entries) + "\n"


def entries(content: Any) -> dict[str, Any]:
    """Field name -> value, as it stands."""
    return {field.name: getattr(content, field.name) for field in fields(content)}


def json_schema(content: type[Exported]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the files that hold `content`."""
    return TypeAdapter(content).json_schema(mode="serialization")
