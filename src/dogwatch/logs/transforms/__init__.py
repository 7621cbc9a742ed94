"""The one list of transforms."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.logs.transform import Transform

TRANSFORMS: Registry[Transform] = Registry("log_transform")
