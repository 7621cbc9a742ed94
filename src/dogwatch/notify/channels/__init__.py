"""The kinds of channels. A new one is one file here and one word in this list."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.notify.channel import Channel
from dogwatch.notify.channels.command import CommandChannel
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.slack import SlackChannel
from dogwatch.notify.channels.webhook import WebhookChannel

CHANNELS: Registry[Channel] = Registry("channel", WebhookChannel, EmailChannel, SlackChannel, CommandChannel)
