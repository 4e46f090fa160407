"""No form of a location shows a secret: neither its redaction, nor the error that refuses it, nor the store's URL.

The forms are generated from the kinds of stores, their schemes and their options, so a new kind is covered, too.
"""

import sys

import pytest

from icefs.errors import IcefsError, InvalidInputError
from icefs.storage.kinds import KINDS
from icefs.storage.url import open_storage, redact

_SECRET = "HUSH"
_HOST = "myaccount.dfs.core.windows.net"
_NAMES = ("sig", "SIG", "account_key", "sas_token", "secret_access_key", "X-Amz-Signature", "accuont_key")


def _authorities(scheme):
    """Returns the authority of a URL with a secret before the @, and in places where one is put by mistake."""
    yield from (f"{_SECRET}pass:{_SECRET}@name", f"user:{_SECRET}@name", f":{_SECRET}@name")
    if scheme in ("az", "azure", "abfs", "abfss"):
        yield from (f"user:{_SECRET}@{_HOST}", f"container@{_SECRET}@{_HOST}", f"{_SECRET}+==@{_HOST}")


def _urls():
    for kind in KINDS.values():
        for scheme in kind.schemes:
            if scheme == "memory":
                continue
            plain = f"{scheme}:///path" if scheme == "file" else f"{scheme}://name/path"
            if kind.is_remote:
                yield from (f"{scheme}://{authority}/path" for authority in _authorities(scheme))
            yield from (f"{plain}?{name}={_SECRET}" for name in _NAMES)
            for option in kind.options:
                # A signature appended to a location that has options already, as programs do.
                yield from (f"{plain}?{option}=true{mark}sig={_SECRET}" for mark in "?&;#")
                yield f"{plain}?{option}=x&sv=2024-01-01&sig={_SECRET}"
            for option in {"endpoint_url", "redirect_to"} & set(kind.options):
                for there in (
                    "http://u:{}@h:9000/x",
                    "u:{}@h:9000",
                    "//u:{}@h/x",
                    "http://h/x?sig={}",
                    "http://h/#sig={}",
                ):
                    yield f"{plain}?{option}={there.format(_SECRET)}"
                    yield f"{plain}?{option}={there.format(_SECRET).replace('?', '%3F').replace('#', '%23')}"


_ALL = list(dict.fromkeys(_urls()))


@pytest.mark.parametrize("url", _ALL)
def test_a_secret_in_a_location_is_never_shown(url):
    assert _SECRET not in redact(url)
    try:
        shown = redact(open_storage(url).url)
    except IcefsError as error:
        shown = f"{error} {error.hint} {error.facts}"
    assert _SECRET not in shown


@pytest.mark.parametrize("url", [url for url in _ALL if KINDS["azure"].schemes[0] + "://" in url or "@my" in url])
def test_nor_where_the_client_of_the_store_is_not_installed(url, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("icefs.storage.azure")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "azure", None)
    with pytest.raises(IcefsError) as caught:
        open_storage(url)
    assert _SECRET not in f"{caught.value} {caught.value.hint} {caught.value.facts}"


def test_the_container_of_an_account_is_no_secret():
    url = f"abfs://container@{_HOST}/path"
    assert redact(url) == url


def test_a_container_that_is_none_is_refused_by_its_name():
    with pytest.raises(InvalidInputError, match="'No_Container'"):
        open_storage("az://No_Container/x")
