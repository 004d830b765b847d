"""Packages made by others: what they find, what they may not do, and how they come in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import LESIONS, NETWORK, config, write_bundle, write_onnx, write_parts
from support.packages import write_spec

from core.errors import ModelError, ModelSpecError, WeightsError
from core.modelspec import read_spec
from models.packages.adding import add, verify
from models.packages.digest import package_hash
from models.registry import LoadedModel, load

SPACING = (3.0, 1.5, 1.0)


def volume(shape: tuple[int, int, int] = (14, 40, 44)) -> tuple[np.ndarray, np.ndarray]:
    """A dark volume with a bright box off its middle, in -200 to 300; and where the box is."""
    made = np.random.default_rng(0).normal(-150, 10, shape).astype(np.float32)
    there = np.zeros(shape, bool)
    there[2:8, 6:20, 24:40] = True
    made[there] = 260
    return made, there


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def added(tmp_path: Path, **changes: Any) -> LoadedModel:
    bundle = write_bundle(tmp_path / "ct", "CT", low=-200, high=300, **changes)
    return load(add(bundle, tmp_path / "zoo").spec, device="cpu")


def test_a_bundle_answers_in_the_volume_s_own_place(tmp_path: Path) -> None:
    model = added(tmp_path)
    given, there = volume()
    answer = model.predict(given, SPACING)
    assert answer.shape == (2, *given.shape)
    assert dice(answer[1] >= 0.5, there) > 0.85  # it works on 2 mm; the edges of 1 mm are lost
    mirrored = model.predict(given[:, :, ::-1].copy(), SPACING)
    assert dice(mirrored[1][:, :, ::-1] >= 0.5, there) > 0.85


def test_its_cleaning_is_done_too(tmp_path: Path) -> None:
    model = added(tmp_path)
    given, there = volume()
    given[10:12, 30:36, 4:10] = 260  # a second, smaller box, which KeepLargest… takes away
    found = model.predict(given, SPACING)[1] >= 0.5
    assert not found[9:, 28:, :12].any()
    assert dice(found, there) > 0.85
    without = config(-200, 300)["postprocessing"]
    without["transforms"] = without["transforms"][:3]
    other = added(tmp_path / "other", postprocessing=without)
    assert (other.predict(given, SPACING)[1] >= 0.5)[9:, 28:, :12].any()


def test_a_draft_says_what_the_bundle_says(tmp_path: Path) -> None:
    spec = added(tmp_path).spec
    assert (spec.name, spec.version, spec.input.modality) == ("bright-ct", "0.3.1", ("CT",))
    assert [(label.channel, label.name) for label in spec.output.labels] == [(1, "bright region")]
    assert spec.output.labels[0].type.meaning == "Tissue"  # no code is known for it
    assert spec.output.activation == "softmax"


def test_what_a_person_wrote_wins(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "ct", "CT", low=-200, high=300)
    parts = write_parts(tmp_path / "parts.toml", name="mine", licence="asked for")
    spec = add(bundle, tmp_path / "zoo", parts).spec
    assert (spec.name, spec.licence) == ("mine", "asked for")
    assert spec.output.labels[0].type.meaning == "Lesion"
    assert spec.output.activation == "softmax"  # of the draft


def code(path: Path) -> str:
    return f"$__import__('pathlib').Path({str(path)!r}).touch()"


def asking_for_code(mark: Path) -> dict[str, dict[str, Any]]:
    return {
        "network": {"network_def": {**NETWORK, "norm": code(mark)}},
        "inferer": {"inferer": code(mark)},
        "step": {"preprocessing": {"_target_": "Compose", "transforms": [code(mark)]}},
        "lambda": {
            "preprocessing": [{"_target_": "Lambdad", "keys": "image", "func": "os.system"}]
        },
        "class": {"network_def": {"_target_": "subprocess.Popen", "args": ["touch", str(mark)]}},
        "behind a reference": {"network_def": "@hidden", "hidden": {**NETWORK, "act": code(mark)}},
        "wrong house": {"network_def": {**NETWORK, "_target_": "os.UNet"}},
        "macro": {"network_def": "%/etc/passwd"},
        "other function of monai": {
            "network_def": {"_target_": "monai.bundle.run", "config_file": "x.json"}
        },
    }


@pytest.mark.parametrize("kind", sorted(asking_for_code(Path("x"))))
def test_a_bundle_that_asks_for_code_is_refused(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    bundle = write_bundle(tmp_path / "b", "CT", low=0, high=1, **asking_for_code(mark)[kind])
    with pytest.raises(ModelSpecError, match=r"asks for|cannot be read") as raised:
        add(bundle, tmp_path / "zoo")
    assert "models.allowed" in raised.value.remedy
    assert not mark.exists()
    assert list((tmp_path / "zoo").iterdir()) == []  # nothing half-installed


def test_expressions_run_once_the_hash_is_allowed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    inferer = (
        "$[__import__('pathlib').Path('MARK').touch(), monai.inferers.SimpleInferer()][1]"
    ).replace("MARK", str(mark))
    bundle = write_bundle(tmp_path / "b", "CT", low=-200, high=300, inferer=inferer)
    with pytest.raises(ModelSpecError) as raised:
        add(bundle, tmp_path / "zoo")
    assert not mark.exists()
    wanted = raised.value.remedy.split()[-1]
    with pytest.raises(ModelSpecError):
        add(bundle, tmp_path / "zoo", allowed=["0" * 64])
    assert not mark.exists()
    spec = add(bundle, tmp_path / "zoo", allowed=[wanted]).spec
    assert mark.exists()
    given, there = volume()
    model = load(spec, device="cpu", allowed=[wanted])
    assert dice(model.predict(given, SPACING)[1] >= 0.5, there) > 0.85
    # one more byte, and it is another package
    (spec.folder / "configs/extra.json").write_text("{}")
    with pytest.raises(ModelSpecError, match="asks for code"):
        load(spec, device="cpu", allowed=[wanted])


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bundle = write_bundle(tmp_path / "b", "CT", low=0, high=1, state={"state_dict": Evil(mark)})
    with pytest.raises(WeightsError, match="more than weights") as raised:
        add(bundle, tmp_path / "zoo")
    assert not mark.exists()
    with pytest.raises(WeightsError, match="do not fit"):  # allowed: it is loaded, and ran
        add(bundle, tmp_path / "zoo", allowed=[raised.value.remedy.split()[-1]])
    assert mark.exists()


def test_torchscript_gives_its_weights_but_runs_only_if_allowed(tmp_path: Path) -> None:
    given, there = volume()
    bundle = write_bundle(tmp_path / "a", "CT", low=-200, high=300, script=True)
    model = load(add(bundle, tmp_path / "zoo").spec, device="cpu")
    assert dice(model.predict(given, SPACING)[1] >= 0.5, there) > 0.85
    program = write_bundle(
        tmp_path / "b", "CT", low=-200, high=300, script=True, network_def=None, network=None
    )
    with pytest.raises(ModelSpecError, match="TorchScript") as raised:
        add(program, tmp_path / "zoo2")
    allowed = [raised.value.remedy.split()[-1]]
    model = load(
        add(program, tmp_path / "zoo2", allowed=allowed).spec, device="cpu", allowed=allowed
    )
    assert dice(model.predict(given, SPACING)[1] >= 0.5, there) > 0.85


@pytest.mark.parametrize("damage", ["truncated", "tampered", "gone", "other network"])
def test_damaged_weights_are_told(tmp_path: Path, damage: str) -> None:
    spec = added(tmp_path).spec
    data = spec.weights_path.read_bytes()
    if damage == "truncated":
        spec.weights_path.write_bytes(data[: len(data) // 2])
    elif damage == "tampered":
        spec.weights_path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif damage == "gone":
        spec.weights_path.unlink()
    else:
        torch.save({"model.0.weight": torch.zeros(3)}, spec.weights_path)
        from models.weights import sha256

        weights = spec.weights.model_copy(update={"sha256": sha256(spec.weights_path)})
        spec = spec.model_copy(update={"weights": weights})
    matches = {"gone": "cannot be read", "other network": "do not fit"}
    with pytest.raises(WeightsError, match=matches.get(damage, "is not the file that")):
        load(spec, device="cpu")


def test_truncated_weights_are_told_on_adding(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", "CT", low=0, high=1)
    path = bundle / "models/model.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WeightsError, match=r"model\.pt"):
        add(bundle, tmp_path / "zoo")


def onnx_parts(tmp_path: Path, **sections: Any) -> Path:
    """A whole specification for an ONNX file."""
    whole = write_spec(tmp_path / "whole", **LESIONS).read_text()
    import tomllib

    content = tomllib.loads(whole)
    for key in ("weights", "network", "preprocessing"):
        del content[key]
    content["output"]["labels"][0]["channel"] = 0
    content["output"] |= {"kind": "segmentation", "activation": "sigmoid"}
    return write_parts(tmp_path / "onnx.toml", **{**content, **sections})


STEPS = [{"name": "window", "params": {"low": -200, "high": 300}}]


@pytest.mark.parametrize("ends_in", ["", "Sigmoid"])
def test_an_onnx_file_with_a_specification(tmp_path: Path, ends_in: str) -> None:
    file = write_onnx(tmp_path / "net.onnx", 0.5, ends_in=ends_in)
    network = {"architecture": "onnx", "params": {"output": "sigmoid" if ends_in else "logits"}}
    parts = onnx_parts(tmp_path, preprocessing=STEPS, network=network)
    spec = add(file, tmp_path / "zoo", parts).spec
    given, there = volume()
    assert np.array_equal(load(spec, device="cpu").predict(given, SPACING)[0] >= 0.5, there)


def test_an_onnx_network_in_3d_is_asked_through_windows(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "net.onnx", 0.5, axes=5)
    parts = onnx_parts(tmp_path, preprocessing=STEPS, window={"size": [4, 16, 16]})
    model = load(add(file, tmp_path / "zoo", parts).spec, device="cpu")
    given, there = volume()
    assert np.array_equal(model.predict(given, SPACING)[0] >= 0.5, there)
    flat = replace(model, spec=model.spec.model_copy(update={"window": None}))
    with pytest.raises(ModelSpecError, match="cannot do with 8 × 1 × 40 × 44"):
        flat.predict(given, SPACING)


def test_no_onnx_is_told(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"not at all")
    with pytest.raises(WeightsError, match="no ONNX file"):
        add(file, tmp_path / "zoo", onnx_parts(tmp_path))
    with pytest.raises(ModelSpecError, match="Field required"):  # no specification
        add(write_onnx(tmp_path / "other.onnx", 0.5), tmp_path / "zoo")


def test_adding_twice_needs_a_word(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", "PT", low=0, high=10)
    first = add(bundle, tmp_path / "zoo")
    with pytest.raises(ModelSpecError, match="is there already"):
        add(bundle, tmp_path / "zoo")
    again = add(bundle, tmp_path / "zoo", replace=True)
    assert again.hash == first.hash == package_hash(first.spec.folder)
    assert verify(first.spec.folder).answer == (2, 8, 64, 64)
    assert [item.name for item in (tmp_path / "zoo").iterdir()] == ["bright-pt"]


def test_links_and_strangers_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", "CT", low=0, high=1)
    (bundle / "link").symlink_to("/etc/hostname")
    (tmp_path / "empty").mkdir()
    for source, match in (("b", "is a link"), ("nowhere", "no such file"), ("empty", "no package")):
        with pytest.raises(ModelError, match=match):
            add(tmp_path / source, tmp_path / "zoo")
    assert read_spec(write_spec(tmp_path / "spec").parent).window is None
