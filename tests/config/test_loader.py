"""The loader: YAML numbers, overrides, and every fault named with file, key and remedy."""

import os
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from owlkit.config import DetectorConfig, Section, VisionSection, dump_config, load_config
from owlkit.config.yaml_text import format_yaml, parse_yaml
from owlkit.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("owl*.yaml"))


class Optim(Section):
    lr: float = Field(default=1e-3, gt=0.0)
    """Learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Its course."""


class Root(Section):
    name: str
    """Required."""
    optim: Optim = Field(default_factory=Optim)
    """A section."""
    spare: Optim | None = None
    """A section that may be absent."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes text to x.yaml in the working folder, so that messages hold a short name."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str) -> str:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return "x.yaml"

    return _write


def _faults(path: str, *overrides: str, schema: type[Section] = DetectorConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, schema=schema)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_lists_only_differences(path: Path) -> None:
    config = load_config(path)
    written, _ = parse_yaml(path.read_text(), origin=path.name)
    assert config.model_dump(exclude_defaults=True, mode="json") == written
    header = path.read_text().split("model:")[0]
    assert f"python tools/make_detector.py configs/{path.name} OUT" in header
    assert "Result: " in header


def test_shipped_configs_are_the_published_sizes() -> None:
    configs = {path.stem: load_config(path).model for path in CONFIGS}
    assert {name: model.vision.image_size for name, model in configs.items()} == {
        "owl_b16": 768,
        "owl_b32": 768,
        "owl_dino_s16": 768,
        "owl_l14": 840,
        "owl_tiny": 64,
        "owlv2_b16": 960,
        "owlv2_l14": 1008,
    }
    second = [name for name, model in configs.items() if model.heads.objectness]
    assert second == ["owlv2_b16", "owlv2_l14"]
    without_start = load_config(
        CONFIGS[1],
        ["model.init_from=", "model.vision.name=vit_base_patch32_clip_quickgelu_224"],
    )
    assert CONFIGS[1].stem == "owl_b32"
    assert without_start.model.init_from is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1e-4", 1e-4, id="PyYAML reads this as text"),
        pytest.param("3E-6", 3e-6, id="capital"),
        pytest.param("1e5", 1e5, id="exponent without a sign"),
        pytest.param("-.5", -0.5, id="no leading zero"),
        pytest.param("5.", 5.0, id="no trailing zero"),
        pytest.param("1_000", 1000, id="underscore"),
        pytest.param("-3", -3, id="negative"),
        pytest.param("010", "010", id="not octal"),
        pytest.param("12:30", "12:30", id="not base 60"),
        pytest.param("2020-01-01", "2020-01-01", id="not a date"),
        pytest.param("on", "on", id="not a truth value"),
        pytest.param("True", True, id="truth"),
        pytest.param("'1e-4'", "1e-4", id="quoted"),
        pytest.param("e4", "e4", id="a word"),
        pytest.param("1e", "1e", id="half a number"),
        pytest.param("", None, id="nothing"),
        pytest.param("~", None, id="null"),
    ],
)
def test_scalars_read_as_they_look(text: str, value: object) -> None:
    found, _ = parse_yaml(f"key: {text}", origin="x")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NUMBERISH = st.from_regex(
    r"[-+]?[0-9_.]{0,3}([eE][-+]?[0-9]{0,2})?|yes|on|null|0x1F|<<", fullmatch=True
)


@given(st.dictionaries(st.text() | NUMBERISH, SCALARS | NUMBERISH | st.lists(SCALARS)))
def test_what_is_dumped_reads_back_equal(value: dict[str, object]) -> None:
    assert parse_yaml(format_yaml(value), origin="x") == (value, [])


@given(
    vision=st.builds(
        VisionSection,
        name=st.text(min_size=1),
        drop_path=st.floats(0, 1, exclude_max=True),
        overrides=st.dictionaries(
            st.text(), st.integers() | st.booleans() | st.text() | st.floats(-1e9, 1e9)
        ),
    )
)
def test_a_dumped_config_loads_back_equal(
    vision: VisionSection, tmp_path_factory: pytest.TempPathFactory
) -> None:
    defaults = DetectorConfig()
    model = defaults.model.model_copy(update={"vision": vision})
    config = defaults.model_copy(update={"model": model})
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\ufeff{}"])
def test_an_empty_file_is_the_defaults(write, text: str) -> None:
    assert load_config(write(text)) == DetectorConfig()


def test_overrides_are_yaml_and_the_last_one_wins(write) -> None:
    config = load_config(
        write("model: {vision: {image_size: 96}, text: {depth: 3}}\nseed: 4\n"),
        [
            "seed=5",
            "seed=6",
            "model.vision.drop_path=1e-2",
            "model.vision.overrides.depth=2",
            "model.init_from=null",
            "model.text.tokenizer=",
            "model.preprocessing.mean=[0, 0.5, 1]",
            "model.vision.name=a=b",
        ],
    )
    assert config.seed == 6
    assert config.model.vision.model_dump(include={"image_size", "drop_path", "name"}) == {
        "image_size": 96,
        "drop_path": 0.01,
        "name": "a=b",
    }
    assert config.model.vision.overrides == {"depth": 2}
    assert config.model.text.depth == 3
    assert config.model.preprocessing.mean == (0.0, 0.5, 1.0)


def test_an_override_reaches_into_a_section_with_all_keys_commented_out(write) -> None:
    config = load_config(write("model:\n  text:\n"), ["model.text.depth=2"])
    assert config.model.text.depth == 2


def test_an_override_changes_one_of_two_sections_that_share_an_alias(write) -> None:
    path = write("name: x\noptim: &one {lr: 0.1}\nspare: *one\n")
    config = load_config(path, ["optim.lr=0.2"], schema=Root)
    assert config.spare is not None
    assert (config.optim.lr, config.spare.lr) == (0.2, 0.1)


def test_a_merged_anchor_may_be_overridden(write) -> None:
    path = write("name: x\noptim: &one {lr: 0.1}\nspare: {<<: *one, lr: 0.2}\n")
    config = load_config(path, schema=Root)
    assert config.spare is not None
    assert config.spare.lr == 0.2


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        pytest.param(
            "model: {vision: {nmae: x}}",
            [],
            "x.yaml: model.vision.nmae is not a field of VisionSection; did you mean name?",
            id="nearest name",
        ),
        pytest.param(
            "",
            ["model.vision.nmae=x"],
            "override model.vision.nmae=x: model.vision.nmae is not a field of VisionSection; "
            "did you mean name?",
            id="nearest name in an override",
        ),
        pytest.param(
            "",
            ["modle.seed=1"],
            "override modle.seed=1: modle is not a field of DetectorConfig; did you mean model?",
            id="a section that an override made",
        ),
        pytest.param(
            "model: {vision: {pad_value: 0}}",
            [],
            "x.yaml: model.vision.pad_value is not a field of VisionSection; "
            "did you mean model.preprocessing.pad_value?",
            id="right name, wrong section",
        ),
        pytest.param(
            "zzz: 1",
            [],
            "x.yaml: zzz is not a field of DetectorConfig; its fields are "
            "name, runs, resume, optim, train, seed, model, data, loss, eval",
            id="nothing near",
        ),
        pytest.param(
            "seed: '3'", [], "x.yaml: seed should be a valid integer, found '3'", id="wrong type"
        ),
        pytest.param(
            "seed: yes",
            [],
            "x.yaml: seed should be a valid integer, found 'yes'",
            id="not YAML 1.1",
        ),
        pytest.param(
            "model: {text: {heads: -1}}",
            [],
            "x.yaml: model.text.heads should be greater than or equal to 1, found -1",
            id="range",
        ),
        pytest.param(
            "model: {heads: {prior_prob: 0.5}}",
            ["model.heads.prior_prob=1"],
            "override model.heads.prior_prob=1: model.heads.prior_prob should be less than 1, "
            "found 1",
            id="the override is at fault, not the file",
        ),
        pytest.param(
            "model: {convention: jax}",
            [],
            "x.yaml: model.convention should be 'scenic' or 'hf', found 'jax'",
            id="choice",
        ),
        pytest.param(
            "model: {vision: {overrides: {depth: [2]}}}",
            [],
            "x.yaml: model.vision.overrides.depth should be a valid integer or a valid number or "
            "a valid boolean or a valid string, found [2]",
            id="a union is one fault",
        ),
        pytest.param(
            "model:\n  heads:\n",
            [],
            "x.yaml: model.heads should be a section of keys (HeadsSection), found null",
            id="empty section",
        ),
        pytest.param(
            "model: {preprocessing: {std: [1, 1, 0]}}",
            [],
            "x.yaml: model.preprocessing.std[2] should be greater than 0, found 0",
            id="inside a list",
        ),
        pytest.param(
            "model: {text: {width: 100}}",
            [],
            "x.yaml: model.text: width 100 is not a multiple of heads 8",
            id="keys that contradict each other",
        ),
        pytest.param(
            "model: {text: {width: 100}}",
            ["model.text.heads=7"],
            "x.yaml with model.text.heads=7: model.text: width 100 is not a multiple of heads 7",
            id="file and override contradict each other",
        ),
        pytest.param(
            "1: x", [], "x.yaml: [1] is not a field name: names are text", id="a number as a key"
        ),
        pytest.param(
            "seed: 1\nmodel:\n  init_from: a\n  init_from: b\n",
            [],
            "x.yaml: init_from is given twice (line 4, first on line 3)",
            id="repeated key",
        ),
        pytest.param(
            "{seed: 1, seed: 1}",
            [],
            "x.yaml: seed is given twice (line 1, first on line 1)",
            id="repeated key on one line",
        ),
        pytest.param(
            "seed: 1",
            ["model.vision={image_size: 1, image_size: 2}"],
            "override model.vision={image_size: 1, image_size: 2}: image_size is given twice "
            "(line 1, first on line 1)",
            id="repeated key in an override",
        ),
        pytest.param(
            "seed: 1\nmodel: [1\n",
            [],
            "x.yaml: line 3: not valid YAML: expected ',' or ']', but got '<stream end>'",
            id="syntax",
        ),
        pytest.param(
            "seed: !!int abc",
            [],
            "x.yaml: not valid YAML: invalid literal for int() with base 10: 'abc'",
            id="tag that does not fit",
        ),
        pytest.param(
            "- 1",
            [],
            "x.yaml: expected keys and values (`seed: 0`), found a list",
            id="root is a list",
        ),
        pytest.param(
            "seed: 1",
            ["seed"],
            "override 'seed': expected key=value with a dotted key",
            id="override without a value",
        ),
        pytest.param(
            "seed: 1",
            ["model..x=1"],
            "override 'model..x=1': expected key=value with a dotted key",
            id="empty name",
        ),
        pytest.param(
            "seed: 1",
            ["seed.x=1"],
            "override seed.x=1: seed is a value, not a section",
            id="a value is no section",
        ),
        pytest.param(
            "",
            ["seed=[1"],
            "override seed=[1: line 1: not valid YAML: expected ',' or ']', but got '<stream end>'",
            id="override that is not YAML",
        ),
    ],
)
def test_a_fault_names_its_origin_its_key_and_the_remedy(
    write, text: str, overrides: list[str], message: str
) -> None:
    assert _faults(write(text), *overrides) == [message]


def test_all_faults_are_reported_at_once(write) -> None:
    faults = _faults(
        write("name: 3\noptim: {lrr: 1, lr: -1}\nspare: {lr: 1, lr: 2, schedul: x}\n"),
        "optim.schedule=linear",
        "nonsense",
        schema=Root,
    )
    assert faults == [
        "x.yaml: lr is given twice (line 3, first on line 3)",
        "override 'nonsense': expected key=value with a dotted key",
        "x.yaml: name should be a valid string, found 3",
        "x.yaml: optim.lr should be greater than 0, found -1",
        "override optim.schedule=linear: optim.schedule should be 'cosine' or 'constant', "
        "found 'linear'",
        "x.yaml: optim.lrr is not a field of Optim; did you mean lr?",
        "x.yaml: spare.schedul is not a field of Optim; did you mean schedule?",
    ]


def test_a_required_key_is_named(write) -> None:
    assert _faults(write("optim: {}"), schema=Root) == ["x.yaml: name is missing"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text"):
        load_config(os.fspath(tmp_path / "latin.yaml"))
