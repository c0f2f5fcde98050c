"""Which cluster a program means, as far as that can be told without one."""

import pytest

import multihost


@pytest.mark.parametrize("kind", [multihost.Pool, multihost.Executor])
@pytest.mark.parametrize("address", [len, 5000, ("master",), ("master", "5000"), b"master:5000"])
def test_an_address_of_another_type_is_an_error_that_says_what_it_must_be(kind: type, address: object) -> None:
    with pytest.raises(TypeError, match="address must be 'host:port'"):
        kind(2, address=address, authkey="key")


@pytest.mark.parametrize("address", ["master:0", "master:port", ":5000", ("", 5000), ("master", 70000)])
def test_a_wrong_address_is_an_error_before_anything_is_dialled(address: object) -> None:
    with pytest.raises(multihost.SettingsError, match="the address must be host:port"):
        multihost.Pool(2, address=address, authkey="key")  # type: ignore[arg-type]


def test_an_address_without_a_key_is_an_error_that_names_the_variables() -> None:
    with pytest.raises(multihost.AuthkeyMissing, match="MULTIHOST_AUTHKEY"):
        multihost.Pool(2, address="127.0.0.1:1")


@pytest.mark.parametrize("kind", [multihost.Pool, multihost.Executor])
def test_a_key_without_an_address_is_an_error(kind: type) -> None:
    with pytest.raises(multihost.SettingsError, match="no address"):
        kind(authkey="key")
