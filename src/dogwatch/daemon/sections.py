"""Every section of the configuration: what the features offer, and the server's."""

from __future__ import annotations

from typing import Any

from dogwatch.config.section import Section
from dogwatch.features import SECTIONS as FEATURE_SECTIONS
from dogwatch.web.options import SECTION as SERVER

SECTIONS: tuple[Section[Any], ...] = (SERVER, *FEATURE_SECTIONS)
