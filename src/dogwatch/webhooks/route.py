"""An endpoint of the configuration in force, made ready: who may come in, and what a request asks for."""

from __future__ import annotations

import hashlib
import ipaddress
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dogwatch.engine.masks import MASK, Masker
from dogwatch.engine.parameters import leaves
from dogwatch.engine.values import Json
from dogwatch.expressions.conditions import ConditionFailure, compile_condition
from dogwatch.expressions.formula import compile_formula
from dogwatch.notify.window import Window
from dogwatch.rules.outside.read import OutsideAlert
from dogwatch.webhooks.delivery import DeliveryState, Rejection
from dogwatch.webhooks.keptpayload import KeptPayload
from dogwatch.webhooks.masks import masked_pairs, masked_text
from dogwatch.webhooks.request import Payload, RawRequest, read_payload
from dogwatch.webhooks.section import VARIABLES, Endpoint

_REJECTIONS = 20
_ID_CHARS = 500
# More texts than these are not looked for one by one: then nothing is shown.
_MOST_HIDDEN = 100
# Said by CEL.
_NOT_THERE = "no such key"
# The reason where the real one might tell a secret.
_OPAQUE = {
    DeliveryState.IGNORED: "the filter",
    DeliveryState.REFUSED: "a secret parameter cannot be read from it",
}


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified request asks for. state: accepted means that a run is to be started with these parameters.

    known_by: what the delivery is known again by, "" for nothing. alerts: that it tells of. headers, query: as anybody
    may read them. kept: the rest.
    """

    state: DeliveryState
    reason: str = ""
    event: str = ""
    source_id: str = ""
    known_by: str = ""
    ping: bool = False
    payload: Json = None
    parameters: Mapping[str, Json] = {}
    headers: Mapping[str, str]
    query: Mapping[str, str]
    kept: KeptPayload
    alerts: Sequence[OutsideAlert] = ()


class Route:
    """Counters and the newest rejections outlive a reload (`adopt`). secret: parameters of the job that are."""

    def __init__(self, endpoint: Endpoint, secret: Iterable[str] = ()) -> None:
        self.endpoint = endpoint
        self._filter = compile_condition(endpoint.filter, VARIABLES) if endpoint.filter is not None else None
        self._dedupe = compile_formula(endpoint.dedupe, VARIABLES) if endpoint.dedupe is not None else None
        self._parameters = {name: compile_formula(text, VARIABLES) for name, text in endpoint.parameters.items()}
        self._secret = [self._parameters[name] for name in secret if name in self._parameters]
        self._allowed = [ipaddress.ip_network(network) for network in endpoint.allowed]
        rate = endpoint.rate
        self.window = Window(rate.max, rate.per) if rate else None
        self.counts: dict[str, int] = {}
        self.rejections: deque[Rejection] = deque(maxlen=_REJECTIONS)
        # Of wrong signatures: when one was last written to the log, and how many since.
        self.logged_s = float("-inf")
        self.unlogged = 0

    def adopt(self, before: Route) -> None:
        """Go on counting where the route that this one replaces stopped."""
        self.counts, self.rejections = before.counts, before.rejections
        self.logged_s, self.unlogged = before.logged_s, before.unlogged
        if before.endpoint.rate == self.endpoint.rate:
            self.window = before.window

    def count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def allows(self, remote: str) -> bool:
        if not self._allowed:
            return True
        try:
            address = ipaddress.ip_address(remote.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._allowed)

    def read(self, request: RawRequest, *, force: bool = False) -> Reading:
        """Return what a verified request asks for. It may take its time with a large body: call it in a thread then.

        force: take it even where the filter does not hold.
        Raises: Malformed.
        """
        payload = read_payload(request)
        identity = self.endpoint.scheme.identity(request, payload.value)
        values = {
            "payload": payload.value,
            "headers": request.headers,
            "query": request.query,
            "event": identity.event,
            "text": payload.text,
            "remote": request.remote,
        }
        secrets, hidden, opaque = self._hidden(values, request, payload)
        source_id, state, reason = identity.delivery_id, DeliveryState.ACCEPTED, ""
        parameters: dict[str, Json] = {}
        try:
            if self._dedupe is not None:
                source_id = _id_text(self._dedupe.value(values))
            state, reason = self._filtered(values, ping=identity.ping, force=force)
            if state is DeliveryState.ACCEPTED:
                parameters = {name: formula.value(values) for name, formula in self._parameters.items()}
        except ConditionFailure as error:
            state, reason = DeliveryState.REFUSED, str(error)
        if opaque and reason:
            reason = _OPAQUE[state]
        headers, query = (self._shown(pairs, secrets) for pairs in (request.headers, request.query))
        return Reading(
            state=state,
            event=secrets.mask(identity.event),
            ping=identity.ping,
            payload=payload.value,
            reason=secrets.mask(masked_text(reason, self.endpoint.scheme.secrets)),
            source_id=secrets.mask(source_id)[:_ID_CHARS],
            known_by=hashlib.sha256(source_id.encode("utf-8", "replace")).hexdigest() if source_id else "",
            parameters=parameters,
            headers=headers,
            query=query,
            kept=KeptPayload(
                packed=zlib.compress(request.body, 5),
                headers={name: value for name, value in request.headers.items() if secrets.spans(value)},
                query={name: value for name, value in request.query.items() if secrets.spans(value)},
                hidden=hidden,
                opaque=opaque,
            ),
        )

    def _hidden(
        self, values: Mapping[str, Any], request: RawRequest, payload: Payload
    ) -> tuple[Masker, Sequence[str], bool]:
        """Return what becomes secret parameters, and whether any of that cannot be found again where it came from."""
        hidden, opaque = list[str](), False
        for formula in self._secret:
            try:
                hidden += leaves(formula.value(values))
            except ConditionFailure as error:
                # What is not there is no secret; of what cannot be read nobody knows what it is.
                opaque |= payload.value is not None and _NOT_THERE not in str(error)
        if len(hidden) > _MOST_HIDDEN:
            return Masker(()), (), True
        places = (payload.text, *request.headers.values(), *request.query.values()) if hidden else ()
        for value in hidden:
            one = Masker([value])
            opaque |= not any(one.spans(place) for place in places)
        return Masker(hidden), hidden, opaque

    def _shown(self, pairs: Mapping[str, str], secrets: Masker) -> dict[str, str]:
        shown = masked_pairs(pairs, self.endpoint.scheme.secrets)
        return {
            name: secrets.mask(MASK if secrets.spans(pairs.get(name, "")) else value) for name, value in shown.items()
        }

    def _filtered(self, values: Mapping[str, Any], *, ping: bool, force: bool) -> tuple[DeliveryState, str]:
        if ping:
            return DeliveryState.IGNORED, "a ping"
        if self._filter is None or force:
            return DeliveryState.ACCEPTED, ""
        try:
            if self._filter.test(values):
                return DeliveryState.ACCEPTED, ""
        except ConditionFailure as error:
            # Senders send events of many shapes to one address: what a filter cannot read it does not let through.
            return DeliveryState.IGNORED, f"the filter does not apply: {error}"
        return DeliveryState.IGNORED, f"the filter: {self._filter.explain(values)}"


def _id_text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value, enc_hook=str).decode()
