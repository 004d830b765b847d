"""Settings: every fault at once by its full key, the environment, folders, the commented file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from support.packages import write_spec

from cli.setup import commented_settings
from core.errors import SettingsError
from core.modelspec import find_specs
from core.settings import Notice, Peer, Route, Settings, Workitem, load

LISTS = {"peers", "routes", "notices", "workitems"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a sentinode.toml and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "sentinode.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zoo that holds the example's model, whatever is installed here."""
    zoo = tmp_path / "zoo"
    write_spec(zoo / "mr-flair-glioma", name="mr-flair-glioma")
    monkeypatch.setattr("core.modelspec.BUILT_IN_ZOO", zoo)


def faults_of(path: Path | None, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, overrides)
    for fault in caught.value.faults:
        assert fault in str(caught.value)
    assert str(len(caught.value.faults)) in str(caught.value)
    return caught.value.faults


def keys_of(faults: list[str]) -> set[str]:
    return {fault.partition(":")[0] for fault in faults}


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Settings.model_fields.items():
        if name not in LISTS:
            assert isinstance(field.annotation, type)
            assert issubclass(field.annotation, BaseModel)
            yield name, field.annotation


def test_every_fault_of_a_file_is_reported_at_once_by_its_full_key(
    write: Callable[[str], Path],
) -> None:
    path = write(
        """
        surprise = 1
        [node]
        port = 70000
        ae_title = "much too long for an AE title"
        prot = 104
        [completeness]
        quiet_seconds = -1
        [worker]
        device = "abacus"
        batch_size = 0
        [nowhere]
        x = 1
        [[peers]]
        name = "pacs"
        ae_title = "PACS"
        archive = true
        [[peers]]
        name = "pacs"
        ae_title = "PACS"
        [[routes]]
        name = "a"
        model = "no-such-model"
        destinations = ["nobody", "pacs"]
        min_instances = 0
        [routes.match]
        Modality = { regex = "(" }
        NotAKeyword = "MR"
        EchoTime = { min = 90, max = 10 }
        SeriesDescription = {}
        [[routes]]
        name = "a"
        model = "no-such-model"
        """
    )
    faults = faults_of(path)
    assert keys_of(faults) >= {
        "surprise",
        "nowhere",
        "node.port",
        "node.ae_title",
        "node.prot",
        "completeness.quiet_seconds",
        "worker.device",
        "worker.batch_size",
        "peers[0].host",
        "peers[1].name",
        "peers[1].ae_title",
        "routes[0].model",
        "routes[0].destinations[0]",
        "routes[0].destinations[1]",
        "routes[0].min_instances",
        "routes[0].match.Modality.regex",
        "routes[0].match.NotAKeyword",
        "routes[0].match.EchoTime",
        "routes[0].match.SeriesDescription",
        "routes[1].name",
        "routes[1].model",
    }
    told = "\n".join(faults)
    for words in ("unknown key", "70000", "'pacs' is used twice", "no model 'no-such-model'"):
        assert words in told
    assert "no peer is called 'nobody'" in told
    assert "'NotAKeyword' is no DICOM keyword" in told


def test_a_known_peer_without_an_address_gets_no_results(write: Callable[[str], Path]) -> None:
    path = write(
        """
        [[peers]]
        name = "mr1"
        ae_title = "MR1"
        [[routes]]
        name = "a"
        model = "no-such-model"
        destinations = ["mr1"]
        """
    )
    assert "routes[0].destinations[0]: peer 'mr1' has no host and port to send to" in faults_of(
        path
    )


def test_a_missing_key_of_a_peer_is_named() -> None:
    keys = keys_of(faults_of(None, {"peers": [{"name": "a"}], "routes": [{"match": {}}]}))
    assert keys == {"peers[0].ae_title", "routes[0].name", "routes[0].model"}


# Everything that a TOML file can hold, in the place of everything that the settings expect.
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=8), st.just("MR")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "regex", "min", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)


def tables_of(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from([*model.model_fields, "unknown"]), VALUES, max_size=5)


FILES = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.one_of(tables_of(section), VALUES) for name, section in sections()},
        "peers": st.one_of(st.lists(tables_of(Peer), max_size=3), VALUES),
        "routes": st.one_of(st.lists(tables_of(Route), max_size=3), VALUES),
        "notices": st.one_of(st.lists(tables_of(Notice), max_size=3), VALUES),
        "workitems": st.one_of(st.lists(tables_of(Workitem), max_size=3), VALUES),
    },
)


@given(FILES)
def test_whatever_a_file_holds_it_loads_or_its_faults_are_listed(content: dict[str, Any]) -> None:
    try:
        load(overrides=content)
    except SettingsError as error:
        assert error.faults
        assert all(re.match(r"^\S+: \S", fault) for fault in error.faults), error.faults


def test_a_variable_overrides_the_file(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[node]\nport = 104\nae_title = "FILE"\n')
    monkeypatch.setenv("SENTINODE_NODE__PORT", "11113")
    monkeypatch.setenv("SENTINODE_WORKER__QUEUES", '["a", "b"]')
    settings = load(path)
    assert (settings.node.port, settings.node.ae_title) == (11113, "FILE")
    assert settings.worker.queues == ("a", "b")


def test_a_good_variable_heals_a_bad_line(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("[node]\nport = 70000\n")
    monkeypatch.setenv("SENTINODE_NODE__PORT", "104")
    assert load(path).node.port == 104


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("SENTINODE_NODE__PORT", "many", "node.port"),
        ("SENTINODE_NODE__PROT", "104", "node.prot"),
        ("SENTINODE_NOED__PORT", "104", "SENTINODE_NOED__PORT"),
        ("SENTINODE_NODE", "no table", "node"),
        ("SENTINODE_WORKER__QUEUES", "no list", "worker.queues"),
        ("SENTINODE_MODELS__FOLDERS", "7", "models.folders"),
    ],
)
def test_a_fault_in_a_variable_is_reported_with_those_of_the_file(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str
) -> None:
    path = write("[worker]\nbatch_size = 0\n")
    monkeypatch.setenv(name, value)
    keys = keys_of(faults_of(path))
    assert any(found.partition("[")[0] == key for found in keys)
    assert "worker.batch_size" in keys


def test_relative_folders_begin_at_the_folder_of_the_file(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write('[storage]\nspool = "fast/spool"\nstore = "s"\n[models]\nfolders = ["m", "/n"]\n')
    settings = load(path)
    assert settings.data == tmp_path / "data"
    assert settings.spool == tmp_path / "fast" / "spool"
    assert settings.store_url == str(tmp_path / "s")
    assert settings.models.folders == (tmp_path / "m", Path("/n"))
    assert settings.ledger_url == f"sqlite:///{tmp_path / 'data' / 'ledger.db'}"


def test_everything_embedded_lies_in_the_data_folder(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = load(write('[storage]\ndata = "d"\n'))
    assert settings.spool == tmp_path / "d" / "spool"
    assert settings.store_url == str(tmp_path / "d" / "store")
    assert settings.embedded_broker
    assert settings.embedded_ledger


def test_a_relative_sqlite_file_begins_at_the_folder_of_the_file(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = load(write('[ledger]\nurl = "sqlite:///x/l.db"\n'))
    assert settings.ledger_url == f"sqlite:///{tmp_path / 'x' / 'l.db'}"
    for url in ("sqlite:////var/l.db", "sqlite:///:memory:", "postgresql://h/db"):
        assert load(write(f'[ledger]\nurl = "{url}"\n')).ledger_url == url


def test_a_wrong_rule_is_told_in_one_line() -> None:
    route = {"name": "r", "model": "m", "match": {"Modality": {"regx": "MR"}}}
    faults = [f for f in faults_of(None, {"routes": [route]}) if ".match" in f]
    assert faults == [
        "routes[0].match.Modality: write a value, a list, { regex = … } or { min = …, max = … }"
    ]


def test_the_url_of_a_store_stays_a_url(write: Callable[[str], Path]) -> None:
    assert load(write('[storage]\nstore = "s3://bucket/x"\n')).store_url == "s3://bucket/x"


def test_a_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(SettingsError, match=r"no such file.*sentinode init"):
        load(tmp_path / "absent.toml")
    monkeypatch.chdir(tmp_path)
    assert load().node.port == 11112  # the default file need not be


def test_what_is_no_toml_is_said_with_its_place(write: Callable[[str], Path]) -> None:
    assert "line 2" in faults_of(write("[node]\nport = \n"))[0]


def test_every_setting_is_documented() -> None:
    for name, section in [*sections(), ("peers", Peer), ("routes", Route)]:
        assert section.__doc__, name
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key} has no description"
    text = commented_settings()
    for name, section in sections():
        assert f"[{name}]" in text
        for key, field in section.model_fields.items():
            assert re.search(rf"^# {key} = .*  # {re.escape(str(field.description))}$", text, re.M)


@pytest.mark.usefixtures("built_in")
def test_the_file_that_init_writes_loads_and_changes_nothing(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = load(write(""))
    monkeypatch.chdir(tmp_path)
    commented = load(write(commented_settings()))
    assert [route.name for route in commented.routes] == ["brain-flair"]
    assert commented.model_copy(update={"routes": ()}) == plain
    # every line that shows a default says the truth
    defaults = commented_settings().partition("# Who we know")[0]
    uncommented, lines = re.subn(r"^# (\w+ = .*  # )", r"\1", defaults, flags=re.M)
    assert lines == sum(len(section.model_fields) for _, section in sections())
    settings = load(write(uncommented))
    assert settings == plain
    assert settings.spool == plain.spool


def test_the_model_of_the_examples_is_built_in() -> None:
    (name,) = re.findall(r'^model = "(.*)"', commented_settings(), re.M)
    assert find_specs()[name].weights_path.is_file()


@pytest.mark.usefixtures("built_in")
def test_the_examples_of_the_file_that_init_writes_load(write: Callable[[str], Path]) -> None:
    text = commented_settings()
    head, examples = text[: text.index("# Who we know")], text[text.index("# Who we know") :]
    examples = re.sub(r"^# (\[\[peers|\w+ = )", r"\1", examples, flags=re.M)
    settings = load(write(head + examples))
    assert [peer.name for peer in settings.peers] == ["pacs", "mr1"]
    assert settings.destinations(settings.routes[0]) == ("pacs",)
    assert settings.routes[0].queue == "gpu"
    assert settings.peers[0].address is not None
    assert str(settings.peers[0].address) == "PACS@192.0.2.10:104"
