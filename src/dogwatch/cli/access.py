"""`dogwatch user`, `token`, `role`, `key`."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import click

from dogwatch.cli.client import Client, json_option, server_option
from dogwatch.cli.listing import Wanted, list_options
from dogwatch.cli.login import ask_password
from dogwatch.cli.output import ago, one_line, print_json, print_table
from dogwatch.core.units import parse_duration
from dogwatch.errors import UsageError

_ROLE = click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role; may be repeated.")


def _path(noun: str, name: str) -> str:
    return f"/api/v1/{noun}/{quote(name, safe='')}"


def labels_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Return `team=shop` texts as labels. Raises: UsageError."""
    pairs = [text.partition("=") for text in texts]
    for key, equals, _value in pairs:
        if not key or not equals:
            raise UsageError(f"'{key}' is not a label", hint="write it as team=shop")
    return {key: value for key, _equals, value in pairs}


# -- users -------------------------------------------------------------------------------------------------------------


@click.group()
def user() -> None:
    """Users: who may log in.

    \b
    Examples:
      dogwatch user add ann --role operator
      dogwatch user list
    """


def _print_users(users: list[dict[str, Any]]) -> None:
    rows = [
        [
            one["name"],
            one["source"],
            ", ".join(one["roles"]) or "-",
            "disabled" if one["disabled"] else "",
            ago(one["login_s"]),
            one_line(one["title"]),
        ]
        for one in users
    ]
    print_table(["NAME", "SOURCE", "ROLES", "STATE", "LAST LOGIN", "FULL NAME"], rows, cut=(5,))


@user.command("list")
@list_options("/api/v1/users")
@server_option
@json_option
def user_list(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the users.

    \b
    Example:
      dogwatch user list
    """
    users = wanted.items(client)
    if as_json:
        print_json(users)
    elif users:
        _print_users(users)
    else:
        none = "There are no users: whoever is on the daemon's machine may do everything."
        click.echo("No user matches." if wanted else none)


@user.command("show")
@click.argument("name")
@server_option
@json_option
def user_show(client: Client, name: str, as_json: bool) -> None:
    """Show one user: roles, groups, last login.

    \b
    Example:
      dogwatch user show ann
    """
    found = client.get(_path("users", name))
    if as_json:
        print_json(found)
        return
    for key in ("name", "title", "email", "source", "disabled", "roles", "given", "groups"):
        value = found[key]
        click.echo(f"{key:<10} {', '.join(value) if isinstance(value, list) else one_line(str(value))}")
    click.echo(f"{'password':<10} changed {ago(found['password_s'])}\n{'login':<10} {ago(found['login_s'])}")


@user.command("add")
@click.argument("name")
@_ROLE
@click.option("--title", default="", help="Full name.")
@click.option("--email", default="", help="Address.")
@server_option
@json_option
def user_add(client: Client, name: str, roles: tuple[str, ...], title: str, email: str, as_json: bool) -> None:
    """Make a user. The password is asked for, or is the first line of the input.

    \b
    Examples:
      dogwatch user add root --role admin
      pass show ann | dogwatch user add ann --role operator
    """
    body = {
        "name": name,
        "password": ask_password("Password", twice=True),
        "roles": list(roles),
        "title": title,
        "email": email,
    }
    made = client.post("/api/v1/users", body)
    if as_json:
        print_json(made)
    else:
        click.echo(f"made user {made['name']} ({', '.join(made['roles']) or 'no roles'})")


@user.command("disable")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let the user log in again.")
@server_option
@json_option
def user_disable(client: Client, name: str, undo: bool, as_json: bool) -> None:
    """Keep a user from logging in: sessions end, tokens are void meanwhile.

    \b
    Examples:
      dogwatch user disable ann
      dogwatch user disable ann --undo
    """
    found = client.post(f"{_path('users', name)}/{'enable' if undo else 'disable'}")
    if as_json:
        print_json(found)
    else:
        click.echo(f"user {found['name']} is {'disabled' if found['disabled'] else 'enabled'}")


@user.command("passwd")
@click.argument("name")
@server_option
@json_option
def user_passwd(client: Client, name: str, as_json: bool) -> None:
    """Give a user another password; its sessions end.

    \b
    Example:
      dogwatch user passwd ann
    """
    found = client.post(f"{_path('users', name)}/password", {"password": ask_password("New password", twice=True)})
    if as_json:
        print_json(found)
    else:
        click.echo(f"user {found['name']} has a new password")


@user.command("roles")
@click.argument("name")
@_ROLE
@server_option
@json_option
def user_roles(client: Client, name: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Give a user these roles in place of those it has by name.

    \b
    Example:
      dogwatch user roles ann --role operator --role shop
    """
    found = client.post(f"{_path('users', name)}/roles", {"roles": list(roles)})
    if as_json:
        print_json(found)
    else:
        click.echo(f"user {found['name']} has the roles {', '.join(found['roles']) or '(none)'}")


@user.command("delete")
@click.argument("name")
@server_option
@json_option
def user_delete(client: Client, name: str, as_json: bool) -> None:
    """Remove a user, with its sessions and tokens.

    \b
    Example:
      dogwatch user delete ann
    """
    client.delete(_path("users", name))
    if as_json:
        print_json({"name": name})
    else:
        click.echo(f"removed user {name}")


# -- tokens ------------------------------------------------------------------------------------------------------------


@click.group()
def token() -> None:
    """API tokens, for programs and other machines.

    \b
    Examples:
      dogwatch token create ci --role viewer --expires 90d
      dogwatch token list
    """


@token.command("list")
@list_options("/api/v1/tokens")
@server_option
@json_option
def token_list(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List your tokens; all of them, if you may see them.

    \b
    Example:
      dogwatch token list
    """
    tokens = wanted.items(client)
    if as_json:
        print_json(tokens)
        return
    if not tokens:
        click.echo("No token matches." if wanted else "There are no tokens.")
        return
    rows = [
        [
            one["id"],
            one_line(one["name"]),
            one["owner"],
            ", ".join(one["roles"]),
            " ".join(f"{key}={value}" for key, value in one["labels"].items()),
            "revoked" if one["revoked_s"] else "never" if one["expires_s"] is None else _until(one["expires_s"]),
            ago(one["used_s"]),
        ]
        for one in tokens
    ]
    print_table(["ID", "NAME", "OWNER", "ROLES", "LABELS", "EXPIRES", "LAST USED"], rows, cut=(1, 4))


def _until(time_s: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M")


@token.command("create")
@click.argument("name")
@_ROLE
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only what carries this label.")
@click.option(
    "--expires", default="90d", show_default=True, metavar="TIME", help="How long it holds; 'never' for ever."
)
@server_option
@json_option
def token_create(
    client: Client, name: str, roles: tuple[str, ...], labels: tuple[str, ...], expires: str, as_json: bool
) -> None:
    """Make a token for yourself. It can do what you can, or less; it is shown this once.

    \b
    Examples:
      dogwatch token create ci --role viewer --expires 30d
      dogwatch token create shop-bot --role operator --label team=shop
    """
    try:
        expires_after_s = None if expires == "never" else parse_duration(expires)
    except ValueError as error:
        raise UsageError(str(error)) from None
    body = {"name": name, "roles": list(roles), "labels": labels_of(labels), "expires_after_s": expires_after_s}
    made = client.post("/api/v1/tokens", body)
    if as_json:
        print_json(made)
        return
    click.echo(made["secret"])
    click.echo(f"token {made['token']['id']} ({', '.join(made['token']['roles'])}); it is shown this once", err=True)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@server_option
@json_option
def token_revoke(client: Client, token_id: str, as_json: bool) -> None:
    """End a token: whatever uses it is refused from now on.

    \b
    Example:
      dogwatch token revoke 1f0c2d3e4a5b
    """
    found = client.post(f"{_path('tokens', token_id)}/revoke")
    if as_json:
        print_json(found)
    else:
        click.echo(f"revoked {found['id']} ({found['name']})")


# -- roles -------------------------------------------------------------------------------------------------------------


@click.group()
def role() -> None:
    """Roles: what they allow.

    \b
    Examples:
      dogwatch role list
      dogwatch role show operator
    """


@role.command("list")
@list_options("/api/v1/roles")
@server_option
@json_option
def role_list(client: Client, wanted: Wanted, as_json: bool) -> None:
    """List the roles, built in and of the configuration.

    \b
    Example:
      dogwatch role list
    """
    found = wanted.items(client)
    if as_json:
        known = client.get("/api/v1/roles", limit=1)
        print_json({"roles": found, "nouns": known["nouns"], "verbs": known["verbs"]})
        return
    rows = [[one["name"], "built in" if one["built_in"] else "access.roles", str(len(one["rules"]))] for one in found]
    print_table(["NAME", "FROM", "RULES"], rows)


@role.command("show")
@click.argument("name")
@server_option
@json_option
def role_show(client: Client, name: str, as_json: bool) -> None:
    """Show what a role allows.

    \b
    Example:
      dogwatch role show operator
    """
    from dogwatch.errors import NotFound

    roles = client.all("/api/v1/roles")
    found = next((one for one in roles if one["name"] == name), None)
    if found is None:
        raise NotFound(f"there is no role '{name}'", hint=f"known: {', '.join(one['name'] for one in roles)}")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            " ".join(rule["verbs"]),
            " ".join(rule["nouns"]),
            " ".join(f"{key}={value}" for key, value in rule["labels"].items()) or "everything",
        ]
        for rule in found["rules"]
    ]
    print_table(["VERBS", "NOUNS", "LABELS"], rows, cut=(1,))


# -- the key of stored secrets -----------------------------------------------------------------------------------------


@click.group()
def key() -> None:
    """The key that seals stored secrets, such as secret parameters of runs.

    \b
    Example:
      dogwatch key rotate --data /var/lib/dogwatch
    """


@key.command("rotate")
@click.option("--data", metavar="FOLDER", help="The daemon's data folder.")
def key_rotate(data: str | None) -> None:
    """Seal with a new key from the daemon's next start on; what was sealed before can still be opened.

    \b
    Example:
      dogwatch key rotate --data /var/lib/dogwatch
    """
    from pathlib import Path

    from dogwatch.access.sealing import rotate_key
    from dogwatch.daemon.paths import default_data_dir

    path = (Path(data) if data else default_data_dir(os.environ)) / "state.key"
    if not path.exists():
        raise UsageError(f"there is no {path}", hint="name the daemon's data folder with --data; nothing is sealed yet")
    count = rotate_key(path)
    click.echo(f"{path} holds {count} keys; restart the daemon to seal with the new one")
