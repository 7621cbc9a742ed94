"""The kinds of channels. A new one is one file here and one word in this list."""

from __future__ import annotations

from dogwatch.core.component import Registry
from dogwatch.notify.channel import Channel
from dogwatch.notify.channels.alertmanager import AlertmanagerChannel
from dogwatch.notify.channels.apprise import AppriseChannel
from dogwatch.notify.channels.command import CommandChannel
from dogwatch.notify.channels.dingtalk import DingtalkChannel
from dogwatch.notify.channels.email import EmailChannel
from dogwatch.notify.channels.feishu import FeishuChannel
from dogwatch.notify.channels.ntfy import NtfyChannel
from dogwatch.notify.channels.pagerduty import PagerdutyChannel
from dogwatch.notify.channels.slack import SlackChannel
from dogwatch.notify.channels.teams import TeamsChannel
from dogwatch.notify.channels.telegram import TelegramChannel
from dogwatch.notify.channels.webhook import WebhookChannel
from dogwatch.notify.channels.wecom import WecomChannel

CHANNELS: Registry[Channel] = Registry(
    "channel",
    WebhookChannel,
    EmailChannel,
    SlackChannel,
    TeamsChannel,
    PagerdutyChannel,
    NtfyChannel,
    TelegramChannel,
    WecomChannel,
    DingtalkChannel,
    FeishuChannel,
    AlertmanagerChannel,
    CommandChannel,
    AppriseChannel,
)
