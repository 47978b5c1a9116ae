"""What other packages add: found without an import, and refused in a sentence where it cannot be used."""

from __future__ import annotations

import sys

import pytest

from flexcim.plugins import PluginError, discovered, loaded
from tests.support.plugins import install_plugin

GROUP = "flexcim.tests"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_is_installed_is_found_by_name_and_not_imported(site):
    install_plugin(site, "acme_b", GROUP, {"small": "acme_b:small", "large": "acme_b:large"}, "small, large = 1, 2")
    install_plugin(site, "acme_a", GROUP, {"medium": "acme_a:medium"}, "raise AssertionError('imported')")
    install_plugin(site, "acme_c", "flexcim.others", {"small": "acme_c:small"})
    found = discovered(GROUP)
    assert list(found) == ["large", "medium", "small"]
    assert "acme_b" not in sys.modules
    assert loaded(found["large"]) == 2


def test_nothing_is_found_where_nothing_is_installed():
    assert discovered(GROUP) == {}


def test_a_name_of_our_own_is_refused(site):
    install_plugin(site, "acme", GROUP, {"small": "acme:small"})
    message = rf"^acme 1\.0 adds 'small' to {GROUP}, a name that FlexCiM itself has there; uninstall that package$"
    with pytest.raises(PluginError, match=message):
        discovered(GROUP, {"small"})


def test_a_name_that_two_packages_add_is_refused(site):
    for package in ("second", "first"):
        install_plugin(site, package, GROUP, {"small": f"{package}:small"})
    message = rf"^first 1\.0 and second 1\.0 both add 'small' to {GROUP}; uninstall one of them$"
    with pytest.raises(PluginError, match=message):
        discovered(GROUP)


@pytest.mark.parametrize(
    ("package", "source", "reason"),
    [
        ("acme_absent", None, "ModuleNotFoundError: No module named 'acme_absent'"),
        ("acme_empty", "", "AttributeError: module 'acme_empty' has no attribute 'small'"),
        ("acme_broken", "raise RuntimeError('not\\n today')", "RuntimeError: not today"),
        ("acme_silent", "raise RuntimeError", "RuntimeError"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(site, package, source, reason):
    install_plugin(site, package, GROUP, {"small": f"{package}:small"}, source)
    (entry,) = discovered(GROUP).values()
    with pytest.raises(PluginError) as caught:
        loaded(entry)
    assert str(caught.value) == (
        f"{package} 1.0 adds 'small' to {GROUP}, but {package}:small cannot be loaded ({reason})"
    )
