"""Users, sessions, tokens, lockout and logins under way: the same over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from joserfc.jwk import ECKey
from tests.access import CHEAP, LOCAL, PASSWORD
from tests.contract.conftest import Open

from dogwatch.access import users
from dogwatch.access.identity import local
from dogwatch.access.oidc import Provider
from dogwatch.access.options import AccessOptions, Lockout, OidcOptions, SessionOptions
from dogwatch.access.service import Access
from dogwatch.access.tables import access_tables
from dogwatch.access.users import User
from dogwatch.core.clock import ManualClock, SystemClock
from dogwatch.errors import Conflict, DogwatchError, NotAllowed, NotFound, TransientError
from dogwatch.store.database import Database

OPTIONS = AccessOptions(password=CHEAP, lockout=Lockout(failures=2, first=100), sessions=SessionOptions(per_user=2))


@pytest.fixture
async def database(open_database: Open) -> Database:
    return await open_database(access_tables())


@pytest.fixture
async def access(database: Database, tmp_path: Path) -> Access:
    one = Access(database, tmp_path, SystemClock(), OPTIONS)
    await one.open()
    return one


async def test_the_life_of_a_user(access: Access) -> None:
    assert not access.has_users
    with pytest.raises(Conflict, match="must be an admin"):
        await access.add_user(LOCAL, "ann", PASSWORD, ["viewer"])
    root = await access.add_user(LOCAL, "Root ", PASSWORD, ["admin"], title="Größe", email="r@example.org")
    assert (root.name, root.title, access.has_users) == ("root", "Größe", True)
    with pytest.raises(Conflict, match="already"):
        await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    await access.add_user(LOCAL, "ann", PASSWORD, ["viewer"])
    secret, session = await access.login("ANN", PASSWORD, address="192.0.2.1", agent="test")
    found = await access.by_session(secret, "192.0.2.1")
    assert found
    assert (found.user, found.csrf, found.rights.roles) == ("ann", session.csrf, ("viewer",))
    await access.set_roles(LOCAL, "ann", ["operator"])
    again = await access.by_session(secret, "")
    assert again
    assert again.rights.roles == ("operator",)
    await access.set_disabled(LOCAL, "ann", disabled=True)
    assert await access.by_session(secret, "") is None
    with pytest.raises(NotAllowed):
        await access.login("ann", PASSWORD, address="", agent="")
    await access.delete_user(LOCAL, "ann")
    with pytest.raises(NotFound):
        await access.delete_user(LOCAL, "ann")
    with pytest.raises(Conflict, match="nobody would be left"):
        await access.delete_user(LOCAL, "root")
    assert (await access.keeper.verify()).ok


async def test_sessions_make_room_and_end(access: Access) -> None:
    await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    secrets = [(await access.login("root", PASSWORD, address="", agent=""))[0] for _ in range(3)]
    known = [await access.by_session(secret, "") is not None for secret in secrets]
    assert known == [False, True, True]
    found = await access.by_session(secrets[2], "")
    assert found
    await access.logout(found)
    assert await access.by_session(secrets[2], "") is None


async def test_lockout(access: Access) -> None:
    await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    tries = await asyncio.gather(
        *(access.authenticate("root", "no", address="192.0.2.1") for _ in range(6)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in tries) == ["NotAllowed"] * 2 + ["TransientError"] * 4
    with pytest.raises(TransientError) as caught:
        await access.authenticate("root", PASSWORD, address="192.0.2.1")
    assert caught.value.retry_after_s
    await access.database.write(lambda tx: tx.run("UPDATE lockouts SET until_s = 0"))
    assert (await access.authenticate("root", PASSWORD, address="192.0.2.1")).name == "root"


async def test_an_office_has_one_address_and_no_more_guesses_than_another(access: Access) -> None:
    names = [f"u{number}" for number in range(6)]
    for name in names:
        await access.add_user(LOCAL, name, PASSWORD, ["admin"])
        await access.authenticate(name, PASSWORD, address="192.0.2.1")
    await access.authenticate("u0", PASSWORD, address="192.0.2.1", device="u0's browser")
    tries = [await _kind(access, name, address="192.0.2.1") for name in names for _ in range(2)]
    # Two are free for a user here, eight for the address.
    assert tries == ["NotAllowed"] * 8 + ["TransientError"] * 4
    assert await _kind(access, "u1", address="192.0.2.2") == "NotAllowed"
    assert (await access.authenticate("u0", PASSWORD, address="192.0.2.1", device="u0's browser")).name == "u0"


async def test_tokens(access: Access) -> None:
    secret, token = await access.add_token(local("me"), "ci", ["viewer"], labels={"team": "shop"}, expires_after_s=3600)
    found = await access.by_token(secret, "192.0.2.9")
    assert found
    assert found.rights.filter("probe")({"team": "shop"})
    assert not found.rights.filter("probe")({"team": "blog"})
    await access.flush()
    with pytest.raises(NotFound):
        await access.revoke_token(local("you"), token.id, anyones=False)
    revoked = await access.revoke_token(local("me"), token.id, anyones=False)
    assert (revoked.used_from, revoked.revoked_s is not None) == ("192.0.2.9", True)
    assert await access.by_token(secret, "") is None
    expired, _token = await access.add_token(local("me"), "old", [], labels={}, expires_after_s=0.0)
    assert await access.by_token(expired, "") is None


async def test_of_two_who_set_up_at_once_one_does(access: Access) -> None:
    code = access.need_setup()
    tries = await asyncio.gather(
        *(access.set_up(code, f"u{n}", PASSWORD, address="") for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(one, User) for one in tries) == 1
    assert all(isinstance(one, User | DogwatchError) for one in tries)


async def test_a_change_holds_in_other_processes_at_once(
    open_database: Open, database: Database, tmp_path: Path
) -> None:
    if database.kind == "sqlite":
        pytest.skip("one process holds an SQLite file")
    other = await open_database(access_tables())
    here, there = (Access(one, tmp_path, SystemClock(), OPTIONS) for one in (database, other))
    listening = asyncio.create_task(there.run())
    try:
        secret, token = await here.add_token(local("me"), "ci", ["viewer"], labels={}, expires_after_s=None)
        async with asyncio.timeout(60):
            # The listener begins with the task: until it hears, a revocation could be missed.
            heard = False
            while not heard:
                assert await there.by_token(secret, "")
                await here.database.write(lambda tx: tx.notify("access"))
                await asyncio.sleep(0.05)
                heard = not there._known
        assert await there.by_token(secret, "")
        await here.revoke_token(local("me"), token.id, anyones=True)
        async with asyncio.timeout(3):
            while await there.by_token(secret, "") is not None:  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.02)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_a_login_at_a_provider_is_claimed_once(access: Access) -> None:
    provider = Provider(OidcOptions(issuer="https://id.example", client_id="x"), access.database, SystemClock())
    provider._metadata = {"authorization_endpoint": "https://id.example/a"}
    provider._metadata_until_s = float("inf")
    address = await provider.begin("browser", "https://here/callback", "/x")
    state = parse_qs(urlsplit(address).query)["state"][0]
    claims = await asyncio.gather(*(provider._claimed(state, "browser") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in claims) == 1


async def test_users_of_a_provider(access: Access) -> None:
    await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    ann = User(name="ann", source="oidc", identity="https://id.example 7", groups=("a",))
    assert (await access.keep_oidc_user(ann, "")).groups == ("a",)
    assert (await access.keep_oidc_user(msgspec.structs.replace(ann, groups=("b",)), "")).groups == ("b",)
    with pytest.raises(Conflict, match="another user"):
        await access.keep_oidc_user(msgspec.structs.replace(ann, name="root", identity="https://id.example 8"), "")
    with pytest.raises(Conflict, match="OpenID provider"):
        await access.set_password(LOCAL, "ann", "another good one")
    assert len(await access.database.read(users.all_users)) == 2


async def test_nobody_is_locked_out_where_they_have_logged_in_before(access: Access) -> None:
    """Guesses from elsewhere, however many and from wherever: the administrator goes on, at the known address and with
    the known browser at any; and a place that is known gives nobody more guesses there.
    """
    await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    await access.authenticate("root", PASSWORD, address="192.0.2.1")
    await access.know("root", "browser of root")
    for number in range(60):
        with pytest.raises((NotAllowed, TransientError)):
            await access.authenticate("root", "guess", address=f"198.51.100.{number}")
    with pytest.raises(TransientError):
        await access.authenticate("root", PASSWORD, address="198.51.100.200")
    with pytest.raises(TransientError):
        await access.authenticate("root", PASSWORD, address="198.51.100.200", device="of another")
    assert (await access.authenticate("root", PASSWORD, address="192.0.2.1")).name == "root"
    assert (
        await access.authenticate("root", PASSWORD, address="198.51.100.9", device="browser of root")
    ).name == "root"
    # What is known of root says nothing about ann.
    await access.add_user(LOCAL, "ann", PASSWORD, ["viewer"])
    tries = [await _kind(access, "ann", device="browser of root") for _ in range(4)]
    assert tries == ["NotAllowed", "NotAllowed", "TransientError", "TransientError"]
    here = [await _kind(access, "root", device="browser of root") for _ in range(4)]
    assert here == ["NotAllowed", "NotAllowed", "TransientError", "TransientError"]


async def _kind(access: Access, name: str, *, device: str = "", address: str = "203.0.113.5") -> str:
    try:
        await access.authenticate(name, "guess", address=address, device=device)
    except DogwatchError as error:
        return type(error).__name__
    return "in"


@pytest.mark.parametrize(
    "password", ["pässwört-数据-🐕‍🦺-é", "nul\0in the middle of it", "x" * 600 + "y1zab", " spaces at both ends "]
)
async def test_passwords_of_every_kind(access: Access, password: str) -> None:
    await access.add_user(LOCAL, "root", password, ["admin"])
    assert (await access.authenticate("root", password, address="")).name == "root"
    for other in (password + " ", password.strip() + "!", password.split("\0")[0] + "-", ""):
        with pytest.raises(NotAllowed):
            await access.authenticate("root", other, address="")
        await access.database.write(lambda tx: tx.run("DELETE FROM lockouts"))


async def test_a_password_of_ten_kilobytes_is_refused_quickly(access: Access) -> None:
    with pytest.raises(DogwatchError, match="longer than 1000"):
        await access.add_user(LOCAL, "root", "ab1-" * 2500, ["admin"])
    await access.add_user(LOCAL, "root", PASSWORD, ["admin"])
    with pytest.raises(NotAllowed):
        await access.authenticate("root", "x" * 10_240, address="")


async def test_a_key_that_the_provider_has_withdrawn_is_asked_for_again(access: Access) -> None:
    asked: list[str] = []
    clock, key = ManualClock(), ECKey.generate_key("P-256", {"kid": "one", "use": "sig"}).as_dict(private=False)
    provider = Provider(OidcOptions(issuer="https://id.example", client_id="x"), access.database, clock)
    provider._metadata = {"jwks_uri": "https://id.example/keys"}
    provider._metadata_until_s = float("inf")

    async def fetched(address: str, token: str = "") -> dict[str, object]:
        asked.append(address)
        return {"keys": [key]}

    provider._fetched = fetched  # type: ignore[method-assign]
    for wait_s in (0, 600, 600, 3000, 10):
        clock.advance(wait_s)
        await provider._key_set()
    assert len(asked) == 2
