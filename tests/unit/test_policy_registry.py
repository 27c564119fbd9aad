"""A policy is found by its file; a broken file and a wrong recipe are named with the cure."""

import importlib
import re
import sys

import pytest

from medclm.config import ConfigError, CurriculumSection, load_recipe
from medclm.curriculum import policies
from medclm.curriculum.registry import find_makers, make_policy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A second folder of policies, forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(f"{policies.__name__}."):
            del sys.modules[name]


def add(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    return path


def test_the_names_are_sorted_and_a_file_added_later_is_found(folder):
    before = find_makers()
    assert list(before) == sorted(before)
    text = "from medclm.curriculum.policies.fixed import FixedPolicy\n\n\ndef _make(section, *, domains, total_steps):\n"
    add(folder, "halves", f'{text}    return FixedPolicy("halves", [0.5, 0.5, 0.0])\n\n\nPOLICIES = {{"halves": _make}}\n')
    assert set(find_makers()) - set(before) == {"halves"}
    policy = make_policy(CurriculumSection(policy="halves"), domains=1, total_steps=10)
    assert policy.shares.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty_file", "", r"no POLICIES: end the file with POLICIES = \{\"its_name\": make\} or move it out"),
        ("a_list", "POLICIES = ['a']\n", r"POLICIES=\['a'\]: give a dict of names and makers"),
        ("no_maker", "POLICIES = {'a': 3}\n", r"POLICIES=\{'a': 3\}: give a dict of names and makers"),
        ("taken", "POLICIES = {'mixture': print}\n", r"the policy name mixture is taken by .*fixed\.py: choose another"),
    ],
)
def test_a_file_without_proper_policies_is_named(folder, name, text, message):
    path = add(folder, name, text)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: {message}"):
        make_policy(CurriculumSection(policy="mixture"), domains=1, total_steps=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad_syntax", "x = 1\ndef broken(:\n", r":2: .*SyntaxError"),
        ("bad_import", "\nimport no_such_package_anywhere\n", r":2: .*ModuleNotFoundError: No module named 'no_such_package"),
        ("bad_name", "x = 1\n\ny = z\n", r":3: .*NameError: name 'z'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_row(folder, name, text, message):
    path = add(folder, name, text)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}{message}.*: mend it or move it out of the folder"):
        find_makers()


def test_an_unknown_policy_names_the_choices():
    with pytest.raises(ConfigError, match=r"curriculum\.policy=nope.*medclm.*threshold"):
        make_policy(CurriculumSection(policy="nope"), domains=1, total_steps=1)
    with pytest.raises(ConfigError, match=r"curriculum\.policy=sequental: unknown policy; did you mean sequential\?"):
        make_policy(CurriculumSection(policy="sequental"), domains=1, total_steps=1)


def test_the_recipes_page_names_every_policy():
    """Add the new name to the line under `policy` in CurriculumSection (medclm/config.py)."""
    listed = re.findall(r"[a-z_]+", CurriculumSection.model_fields["policy"].description)
    assert sorted(set(listed) - {"or"}) == list(find_makers())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--curriculum.sequential=[0.5,0.5]", r"curriculum\.sequential=\[0\.5, 0\.5\]: give three shares .* sum to 1"),
        ("--curriculum.sequential=[0.5,0.6,0.1]", r"curriculum\.sequential=.*sum to 1"),
        ("--curriculum.sequential=[1.2,-0.1,-0.1]", r"curriculum\.sequential=.*sum to 1"),
        ("--curriculum.threshold.medium_above=3", r"curriculum\.threshold\.medium_above=3\.0 is above .*easy_above=2\.0"),
        ("--curriculum.learning_progress.fast=0.99", r"curriculum\.learning_progress\.fast=0\.99 is not below .*slow=0\.99"),
        ("--curriculum.learning_progress.explore=0.4", r"curriculum\.learning_progress\.explore='0\.4'"),
    ],
)
def test_wrong_numbers_name_their_key(flag, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe([flag])


@pytest.mark.parametrize("key", ["mixture", "sequential"])
def test_a_share_that_is_no_number_is_refused(key):
    with pytest.raises(ValueError, match=rf"curriculum\.{key}=\[nan, 0\.5, 0\.5\]"):
        CurriculumSection.model_validate({key: [float("nan"), 0.5, 0.5]})
