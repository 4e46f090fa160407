"""The `-o` options."""

import click
import pytest

from icefs.cli.support.exit_codes import USAGE
from icefs.cli.support.fstab import fstab_option, parse_option_list


@click.command()
@click.option("--branch")
@click.option("--read-only", is_flag=True)
@click.option("--allow-other", is_flag=True)
@click.option("--uid", type=int)
@click.option("--allow-virtual", multiple=True)
@click.option("--foreground", "-f", is_flag=True)
@fstab_option
@click.pass_context
def command(ctx, **values):
    ctx.obj.update(values)


def run(*arguments):
    values = {}
    with command.make_context("x", list(arguments), obj=values) as ctx:
        command.invoke(ctx)
    return values


def test_what_mount8_adds_is_accepted_and_changes_nothing():
    noise = (
        "rw,defaults,_netdev,noauto,nofail,user,nosuid,nodev,noexec,noatime,"
        "x-systemd.automount,X-mount.mkdir=0755,comment=hello"
    )
    assert run("-o", noise) == run()


def test_the_same_names_as_the_long_options_with_either_dash():
    values = run("-o", "branch=main,ro,allow_other", "-o", "uid=7,allow-virtual=s3://a/,allow_virtual=file:///b")
    assert values == {
        "branch": "main",
        "read_only": True,
        "allow_other": True,
        "uid": 7,
        "allow_virtual": ("s3://a/", "file:///b"),
        "foreground": False,
    }


def test_the_command_line_wins():
    assert run("-o", "branch=main,uid=7", "--branch", "x")["branch"] == "x"
    assert run("--uid", "8", "-o", "uid=7")["uid"] == 8


def test_escapes_of_comma_and_backslash():
    known = {"branch": click.Option(["--branch"])}
    assert parse_option_list(r"branch=a\,b\\c=d,rw", known) == {"branch": r"a,b\c=d"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "unknown mount option: nope"),
        ("foreground", "unknown mount option: foreground"),
        ("ro=1", "takes no value: ro"),
        ("branch", "needs a value: branch=…"),
        ("uid=seven", "'seven' is not a valid integer"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(click.BadParameter) as caught:
        run("-o", text)
    assert message in caught.value.format_message()
    assert caught.value.exit_code == USAGE
